"""A simulated deployment: the router's request path, workers, the network between, a plan of faults."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from common.messages import SamplingParams
from common.router_config import RouterConfig
from pdserve.errors import AbortedError, OverloadedError, RequestCancelledError, RequestTimeoutError
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
from router.workers.outage import Outage
from router.workers.pool import WorkerPool
from tests.simulation.deployment import Deployment
from tests.simulation.hash_engine import VOCAB, answer
from tests.simulation.plan import SEEDS_APART, Fault, Plan, Request, Result
from tests.simulation.sim_network import Network, conversations

AT_REST_S = 60.0
GIVEN_UP_WITHIN_S = 1.0  # by a request whose client has given it up


class World:
    """Runs a plan. Call `run` once, on the simulation's loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        draw = random.Random(plan.seed)
        self._deployment = Deployment(plan, draw, Network(draw))
        max_deaths = plan.num_kills if plan.max_worker_deaths is None else plan.max_worker_deaths
        config = RouterConfig(policy=plan.policy, max_outage_s=300.0, max_worker_deaths=max_deaths)
        self._pool = WorkerPool(self._deployment.addresses, config)
        self._make_router(config)
        self.result = Result()

    async def run(self) -> Result:
        """Carry out the plan; fail on any wrong, missing or doubled token, and on anything left behind."""
        network = self._deployment.network
        with patch("router.workers.link.Conversation", conversations(network)):
            self._pool.start()
            watching = asyncio.create_task(self._outage.watch())
            await self._pool.wait_ready(60.0)
            self._deployment.tell(self._pool.follow)
            plan = self._plan
            faults = [asyncio.create_task(self._suffer(fault)) for fault in plan.faults]
            clients = [self._ask(number, request) for number, request in enumerate(plan.requests)]
            await asyncio.gather(*clients)
            await asyncio.gather(*faults, *self._deployment.poisoned)
            self.result.num_poisoned = len(self._deployment.poisoned)
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
        self._metrics = RouterMetrics("hash", self._admission, self._pool.views)
        relocation = Relocation(dispatcher, self._metrics, config.max_worker_deaths)
        tokenizer: Any = _Letters()
        self._journeys = Journeys(dispatcher, placement, relocation, tokenizer, self._metrics)

    async def _ask(self, number: int, request: Request) -> None:
        await asyncio.sleep(request.at_s)
        prompt = _prompt(number, request.num_prompt_tokens)
        sampling = SamplingParams(0.0, SEEDS_APART * number, request.max_tokens)
        job = Job(f"r{number}", prompt, sampling, (), num_choices=request.num_choices)
        found: list[list[int]] = [[] for _ in range(request.num_choices)]
        began_s = time.monotonic()
        outcome = await self._read(job, request, found)
        self.result.outcomes[outcome] += 1
        self._compare(job, found, is_whole=outcome == "completed")
        if outcome in ("cancelled", "left"):
            assert request.leaves_after_s is not None
            took_s = time.monotonic() - began_s
            assert took_s < request.leaves_after_s + 1.1 * GIVEN_UP_WITHIN_S

    async def _read(self, job: Job, request: Request, found: list[list[int]]) -> str:
        """Read a request to its end, and return how it ended."""
        after_s, leaving = request.leaves_after_s, None
        deadline_s = after_s if request.leaves_by == "deadline" else None
        if after_s is not None and request.leaves_by == "cancel":
            leaving = asyncio.create_task(self._leave(job.request_id, after_s))
        try:
            async with asyncio.timeout(_patience_s(request)):
                async for delta in self._journeys.run(job, deadline_s):
                    assert delta.index == len(found[delta.choice])
                    found[delta.choice] += delta.token_ids
        except RequestCancelledError:
            assert leaving is not None
            return "cancelled"
        except (RequestTimeoutError, OverloadedError):
            assert deadline_s is not None
            return "late"
        except AbortedError:
            assert self._plan.max_worker_deaths is not None
            return "poison"
        except TimeoutError:
            return "left"
        finally:
            if leaving is not None:
                leaving.cancel()
        return "completed"

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

    async def _suffer(self, fault: Fault) -> None:
        self.result.outcomes[fault.kind] += 1
        await self._deployment.suffer(fault, self._pool)

    async def _check_at_rest(self) -> None:
        deadline_s = time.monotonic() + AT_REST_S
        while True:
            try:
                self._deployment.check_at_rest()
                break
            except AssertionError:
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(0.5)
        admission, queue, pool = self._admission, self._queue, self._pool
        assert (admission.num_in_flight, admission.num_queued) == (0, 0)
        assert admission.accepted == sum(admission.ended.values())
        assert (queue.num_waiting, queue._num_active, queue._num_unsent_tokens) == (0, 0, 0)
        assert not self._outage._waiting
        assert [link.num_live for link in pool._links if link.num_live] == []
        for name in self._deployment.processes:
            assert pool.sent_prompts.totals(name) == (0, 0)
            assert pool.worker_use.num_requests(name) == 0
            assert not pool.worker_use._by_prefill[name]


class _Letters:
    """Tokenizer of one letter a token."""

    def decoder(self, shown: frozenset[str]) -> Callable[[Sequence[int]], str]:
        """Return what turns tokens into text."""
        return letters


def letters(token_ids: Sequence[int]) -> str:
    """Return the text of these tokens."""
    return "".join(chr(0x4E00 + token_id) for token_id in token_ids)


def _patience_s(request: Request) -> float | None:
    """Return the seconds after which a client closes its stream; beyond a deadline that is an error."""
    if request.leaves_after_s is None or request.leaves_by == "cancel":
        return None
    return request.leaves_after_s + (GIVEN_UP_WITHIN_S if request.leaves_by == "deadline" else 0.0)


def _prompt(number: int, num_tokens: int) -> tuple[int, ...]:
    """Return a prompt that shares its beginning with every fourth other one."""
    shared = [(number % 4 * 101 + place * 13) % (VOCAB - 1) + 1 for place in range(num_tokens // 2)]
    own = [
        (number * 331 + place * 29) % (VOCAB - 1) + 1 for place in range(num_tokens - len(shared))
    ]
    return (*shared, *own)
