"""Processes of a simulated deployment, what befalls them, and the supervisor that starts them again."""

import asyncio
import random
from collections.abc import Callable

from common.config import EngineConfig
from common.engine.batch import BatchEntry
from common.messages import Role
from router.workers.membership import Member, Membership
from router.workers.pool import WorkerPool
from tests.simulation.plan import Fault, Plan
from tests.simulation.sim_network import Network
from tests.simulation.sim_transport import SimTransport
from tests.simulation.sim_worker import SimProcess

CONFIG = EngineConfig(max_batch_tokens=16, max_num_seqs=4)
NUM_BLOCKS = 48  # of 4 positions: three or four requests fill a worker, which then preempts
RESTART_S = 1.5
TOLD_WITHIN_S = 0.1  # of a death, by the supervisor: before or after the connection tells it


class Deployment:
    """Owns the processes. A worker's name stays; its process changes, and with it its address."""

    def __init__(self, plan: Plan, draw: random.Random, network: Network) -> None:
        self.network = network
        self.processes: dict[str, SimProcess] = {}
        self._is_supervised = plan.is_supervised
        self._draw = draw
        self._transport = SimTransport()
        self._addresses: dict[str, str] = {}
        self._num_lives = 0
        self._num_versions = 0
        self._poison = plan.poison
        self._follow: Callable[[Membership], None] = lambda membership: None
        self.poisoned: list[asyncio.Task[None]] = []  # deaths of it, and the restarts
        for role, number in (("prefill", plan.num_prefill), ("decode", plan.num_decode)):
            for each in range(number):
                self._start(f"{role}-{each}")

    @property
    def addresses(self) -> list[str]:
        """Addresses of the processes that serve."""
        return [address for address in self._addresses.values() if address]

    def tell(self, follow: Callable[[Membership], None]) -> None:
        """Tell a router of the present membership, now and after each change, if there is a supervisor."""
        self._follow = follow
        if self._is_supervised:
            self._num_versions += 1
            members = [Member(name, address) for name, address in self._addresses.items()]
            follow(Membership(self._num_versions, tuple(members)))

    async def suffer(self, fault: Fault, pool: WorkerPool) -> None:
        """Let a fault happen, and end."""
        await asyncio.sleep(fault.at_s)
        names = [*self.processes]
        name = names[fault.worker % len(names)]
        process, address = self.processes[name], self._addresses[name]
        if fault.kind == "evict":
            pool.drain(name)
            pool.evict(name)
            await asyncio.sleep(fault.for_s)
            pool.undrain(name)
        elif fault.kind == "cut":
            self.network.cut(address)
        elif fault.kind == "silence" and address:
            self.network.silence(address)
            await asyncio.sleep(fault.for_s)
            self.network.heal(address)
        elif fault.kind == "kill" and process.is_alive:
            await self._kill(name)
        elif fault.kind == "hang" and process.is_alive:
            process.loop.is_hung = True
            await asyncio.sleep(fault.for_s)
            process.loop.is_hung = False
            process.loop.wake()

    async def _kill(self, name: str) -> None:
        self._end(name)
        await self._replace(name)

    def _end(self, name: str) -> None:
        self.processes[name].kill()
        self.network.cut(self._addresses[name])

    async def _replace(self, name: str) -> None:
        if self._is_supervised:
            await asyncio.sleep(self._draw.uniform(0, TOLD_WITHIN_S))
            self._addresses[name] = ""
            self.tell(self._follow)
        await asyncio.sleep(RESTART_S)
        self._start(name)
        self.tell(self._follow)

    def check_at_rest(self) -> None:
        """Fail if a worker holds a block or an output, or if something waits there."""
        for process in self.processes.values():
            process.check_at_rest()

    def _killer(self, name: str) -> Callable[[BatchEntry], None]:
        """Return what ends the process in a step that runs the poison: nobody sees its output."""

        def look(entry: BatchEntry) -> None:
            poison = self._poison
            if poison is None or entry.seq.sampling.seed != poison.seed:
                return
            if entry.end > poison.position and self.processes[name].is_alive:
                self._end(name)
                self.poisoned.append(asyncio.create_task(self._replace(name)))

        return look

    def _start(self, name: str) -> None:
        role = Role(name.partition("-")[0])
        self._num_lives += 1
        address = f"{name}.{self._num_lives}" if self._is_supervised else name
        on_entry = self._killer(name)
        process = SimProcess(name, role, self._transport, CONFIG, NUM_BLOCKS, on_entry=on_entry)
        self.processes[name] = self.network.processes[address] = process
        self._addresses[name] = address
