"""A simulated deployment: the router's request path, workers, the network between, a plan of faults."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from common.config import EngineConfig, RouterConfig
from common.messages import Role, SamplingParams
from pdserve.errors import RequestCancelledError
from router.access.tenant import ANONYMOUS
from router.admission.admission import Admission
from router.admission.fair_queue import FairQueue
from router.admission.prompt_queue import PromptQueue, Turn
from router.admission.wait_limit import WaitLimit
from router.intake.job import Job
from router.journey.decisions import DecisionLog
from router.journey.dispatch import Dispatcher
from router.journey.journey import Journeys
from router.journey.live_request import Resources
from router.journey.metrics import RouterMetrics
from router.journey.placement import Placement
from router.journey.relocation import Relocation
from router.journey.work_ids import WorkIds
from router.routing.policy import make_policy
from router.workers.membership import Member, Membership
from router.workers.outage import Outage
from router.workers.pool import WorkerPool
from tests.simulation.hash_engine import VOCAB, answer
from tests.simulation.plan import Fault, Plan, Request, Result
from tests.simulation.sim_network import Network, conversations
from tests.simulation.sim_worker import SimProcess, SimTransport

CONFIG = EngineConfig(max_batch_tokens=16, max_num_seqs=4)
NUM_BLOCKS = 48  # of 4 positions: three or four requests fill a worker, which then preempts
RESTART_S = 1.5
AT_REST_S = 60.0


class World:
    """Runs a plan. Call `run` once, on the simulation's loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._draw = random.Random(plan.seed)
        self._network = Network(self._draw)
        self._transport = SimTransport()
        names = [
            *(f"prefill-{number}" for number in range(plan.num_prefill)),
            *(f"decode-{number}" for number in range(plan.num_decode)),
        ]
        self._addresses = {name: name for name in names}
        self._version = 0  # of the membership
        for name in names:
            self._start(name)
        config = RouterConfig(
            policy=plan.policy,
            max_outage_s=300.0,
            max_worker_deaths=1000,
        )
        self._pool = WorkerPool(names, config)
        self._make_router(config)
        self.result = Result()

    async def run(self) -> Result:
        """Carry out the plan; fail on any wrong, missing or doubled token, and on anything left behind."""
        with patch("router.workers.link.Conversation", conversations(self._network)):
            self._pool.start()
            watching = asyncio.create_task(self._outage.watch())
            await self._pool.wait_ready(60.0)
            plan = self._plan
            faults = [asyncio.create_task(self._do(fault)) for fault in plan.faults]
            clients = [self._ask(number, request) for number, request in enumerate(plan.requests)]
            await asyncio.gather(*clients)
            await asyncio.gather(*faults)
            await self._check_at_rest()
            watching.cancel()
            await self._pool.close()
        self.result.migrations = sum(
            sample.value
            for metric in self._metrics.migrations.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )
        return self.result

    def _start(self, name: str) -> None:
        role = Role(name.partition("-")[0])
        process = SimProcess(name, role, self._transport, CONFIG, NUM_BLOCKS)
        self._network.processes[self._addresses[name]] = process

    async def _kill_and_restart(self, name: str, process: SimProcess) -> None:
        """Do as a supervisor: the next process has another address, of which the router is told."""
        process.kill()
        self._network.cut(self._addresses[name])
        tells = self._draw.random() < 0.5  # or the process starts at its old address
        if tells:
            await asyncio.sleep(self._draw.uniform(0.0, 0.3))
            self._tell(name, "")
        await asyncio.sleep(RESTART_S)
        if tells:
            del self._network.processes[self._addresses[name]]
            self._addresses[name] = f"{name}/{self._version}"
        self._start(name)
        if tells:
            self._tell(name, self._addresses[name])

    def _tell(self, name: str, address: str) -> None:
        """Send the router the membership, in which the worker has this address."""
        self._version += 1
        addresses = {**self._addresses, name: address}
        members = tuple(Member(each, where) for each, where in addresses.items())
        self._pool.follow(Membership(self._version, members))

    def _make_router(self, config: RouterConfig) -> None:
        self._admission = Admission(config)
        placement = Placement(self._pool, make_policy(config.policy), DecisionLog())
        self._queue = PromptQueue(
            FairQueue[Turn](self._admission.tenants.weight), placement.room_tokens
        )
        self._outage = Outage(self._pool.is_ready, config.max_outage_s)
        dispatcher = Dispatcher(
            Resources(self._admission, self._queue, self._pool),
            placement,
            WaitLimit(None),
            WorkIds("router"),
            self._outage,
            config.max_unread_tokens,
        )
        self._metrics = RouterMetrics(self._admission, self._pool.views)
        relocation = Relocation(dispatcher, self._metrics, config.max_worker_deaths)
        tokenizer: Any = _Letters()
        self._journeys = Journeys(dispatcher, placement, relocation, tokenizer, self._metrics)

    async def _ask(self, number: int, request: Request) -> None:
        await asyncio.sleep(request.at_s)
        prompt = _prompt(number, request.num_prompt_tokens)
        sampling = SamplingParams(0.0, 100 * number, request.max_tokens)
        job = Job(f"r{number}", prompt, sampling, (), num_choices=request.num_choices)
        leaving = None
        if request.cancel_after_s is not None:
            leaving = asyncio.create_task(self._leave(f"r{number}", request.cancel_after_s))
        found: list[list[int]] = [[] for _ in range(request.num_choices)]
        try:
            async for delta in self._journeys.run(job, None):
                assert delta.index == len(found[delta.choice])
                found[delta.choice] += delta.token_ids
        except RequestCancelledError:
            assert leaving is not None
            self.result.outcomes["cancelled"] += 1
        else:
            self.result.outcomes["completed"] += 1
        finally:
            if leaving is not None:
                leaving.cancel()
        self._compare(job, found, is_whole=leaving is None)

    def _compare(self, job: Job, found: list[list[int]], *, is_whole: bool) -> None:
        for choice, tokens in enumerate(found):
            sampling = job.sampling_of(choice)
            expected = answer(job.prompt_token_ids, sampling.seed, sampling.max_tokens)
            if is_whole:
                assert tokens == expected, f"{job.request_id}#{choice}"
                self.result.num_identical += 1
            else:
                assert tokens == expected[: len(tokens)]

    async def _leave(self, request_id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._journeys.cancel(ANONYMOUS, request_id)

    async def _do(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        name = [*self._addresses][fault.worker % len(self._addresses)]
        address = self._addresses[name]
        process = self._network.processes[address]
        self.result.outcomes[fault.kind] += 1
        if fault.kind == "kill" and process.is_alive:
            await self._kill_and_restart(name, process)
        elif fault.kind == "cut":
            self._network.cut(address)
        elif fault.kind == "silence":
            self._network.silence(address)
            await asyncio.sleep(fault.for_s)
            self._network.heal(address)
        elif fault.kind == "hang" and process.is_alive:
            process.loop.is_hung = True
            await asyncio.sleep(fault.for_s)
            process.loop.is_hung = False
            process.loop.wake()

    async def _check_at_rest(self) -> None:
        deadline_s = time.monotonic() + AT_REST_S
        while True:
            try:
                for process in self._network.processes.values():
                    process.check_at_rest()
                break
            except AssertionError:
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(0.5)
        admission, queue = self._admission, self._queue
        assert (admission.num_in_flight, admission.num_queued) == (0, 0)
        assert admission.accepted == sum(admission.ended.values())
        assert (queue.num_waiting, queue._num_active, queue._num_unsent_tokens) == (0, 0, 0)
        for name in self._addresses:
            assert self._pool.sent_prompts.totals(name) == (0, 0)
            assert self._pool.worker_use.num_requests(name) == 0


class _Letters:
    """Tokenizer of one letter a token."""

    def decoder(self, shown: frozenset[str]) -> Callable[[Sequence[int]], str]:
        """Return what turns tokens into text."""
        return letters


def letters(token_ids: Sequence[int]) -> str:
    """Return the text of these tokens."""
    return "".join(chr(0x4E00 + token_id) for token_id in token_ids)


def _prompt(number: int, num_tokens: int) -> tuple[int, ...]:
    """Return a prompt that shares its beginning with every fourth other one."""
    shared = [(number % 4 * 101 + place * 13) % (VOCAB - 1) + 1 for place in range(num_tokens // 2)]
    own = [
        (number * 331 + place * 29) % (VOCAB - 1) + 1 for place in range(num_tokens - len(shared))
    ]
    return (*shared, *own)
