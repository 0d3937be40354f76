"""Fleet of scripted workers: servers in this process in place of a deployment's processes."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from common.messages import Role
from common.rpc.worker_host import WorkerHost
from pdserve.errors import PreconditionError
from router.scaling.fleet import FleetLimits
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S

HOST = "127.0.0.1"


class ScriptedFleet:
    """Fleet of the given workers and those that it starts."""

    def __init__(self, *workers: ScriptedWorker, max_workers: int = 8) -> None:
        self.workers = {worker.info.name: worker for worker in workers}
        self.started: list[ScriptedWorker] = []
        self.stopped: list[str] = []
        self.restarted: list[tuple[str, str]] = []
        self.fingerprint = "tiny"  # of workers started later
        self.may_flip = asyncio.Event()
        self.may_flip.set()
        self.limits = FleetLimits()
        self._max_workers = max_workers
        self._hosts: list[WorkerHost] = []

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """Start scripted workers; return their addresses by name."""
        if len(self.workers) + len(roles) > self._max_workers:
            raise PreconditionError("no room")
        addresses = {}
        for role in roles:
            worker = ScriptedWorker(
                f"{role}-{len(self.workers)}", role, self.fingerprint, script=echo
            )
            host = WorkerHost(worker, HOST)
            self._hosts.append(host)
            self.started.append(worker)
            self.workers[worker.info.name] = worker
            addresses[worker.info.name] = await asyncio.to_thread(host.start)
        return addresses

    async def flip(self, worker: str, role: Role) -> None:
        """Change a worker's role."""
        await self.may_flip.wait()
        flipped = self.workers[worker]
        assert not flipped.live, "flipped with work in hand"
        flipped.info = replace(flipped.info, role=role, incarnation=f"{worker}-{role}")
        flipped.publish()

    async def stop(self, worker: str) -> None:
        """Stop a worker's server."""
        self.stopped.append(worker)

    async def restart(self, worker: str, address: str, reason: str) -> None:
        """Note that a restart was asked for."""
        self.restarted.append((worker, reason))

    def close(self) -> None:
        """End the servers that the fleet started."""
        for host in self._hosts:
            host.stop(WITHIN_S)
