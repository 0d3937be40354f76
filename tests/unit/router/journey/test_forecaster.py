"""Forecasts of a prompt's wait by hand: each prompt token takes a second on either worker.

Steps hold 10 tokens, so that a worker's window is 40. Prompts are named by their tokens.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from common.messages import Role
from common.profile import Correction, WorkerProfile
from common.router_config import RouterConfig
from pdserve.errors import OverloadedError, Reason
from router.access.tenant import ANONYMOUS, Tenant
from router.admission.wait_limit import Forecast, Kind
from router.intake.job import Job
from router.journey.forecaster import Forecaster
from router.journey.live_request import LiveRequest
from router.routing.policy import CostBased, LeastLoaded, Local, RoutingPolicy
from tests.unit.router.journey.routed import Routed, make_job, until

PROFILE = WorkerProfile(
    row_counts=(1, 10),
    row_seconds=(1.0, 10.0),
    sample_s=0.0,
    position_s=0.0,
    pair_s=0.0,
    kv_bytes_per_token=0,
    max_batch_tokens=10,
    correction=Correction(handoff_s=0.0),
)
ACME, ZETA = Tenant("acme"), Tenant("zeta")


def job_of(num_tokens: int, priority: int = 0, tenant: Tenant = ANONYMOUS, name: str = "x") -> Job:
    return replace(make_job(name, num_tokens=num_tokens, tenant=tenant), priority=priority)


def waits(forecast: Forecast) -> list[float]:
    """Return the predicted wait and the number of prompts ahead."""
    return [forecast.wait_s, forecast.num_ahead]


class Queued:
    """A router with requests that nobody answers: at the workers, or in its queue."""

    def __init__(self, policy: RoutingPolicy, max_wait_s: float | None = None) -> None:
        self.routed = Routed(RouterConfig(max_wait_s=max_wait_s))
        self.routed.placement._policy = policy
        for link, role in ((self.routed.decode, Role.DECODE), (self.routed.prefill, Role.PREFILL)):
            self.routed.introduce(link, role, PROFILE)
            link.load = replace(link.load, blocks_total=4096, blocks_free=4096)
        self.requests: list[LiveRequest] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def put(self, job: Job) -> None:
        """Admit a request, and send it if its turn has come."""
        request = self.routed.dispatcher.admit(job, None)
        num_before = self.routed.queue.num_waiting + self.routed.decode.num_live

        async def go() -> None:
            decision = await self.routed.dispatcher.wait_for_turn(request)
            self.routed.dispatcher.send(request, decision)

        self.requests.append(request)
        self.tasks.append(asyncio.create_task(go()))
        queue, decode = self.routed.queue, self.routed.decode
        await until(lambda: queue.num_waiting + decode.num_live > num_before)

    def forecast(self, job: Job) -> Forecast:
        """Return the forecast for a request that arrives now."""
        now_s = self.requests[-1].arrival.at_s if self.requests else 0.0
        decision = self.routed.placement.choose(job, now_s)
        forecaster = Forecaster(self.routed.placement, self.routed.queue)
        return forecaster.on_arrival(job, decision, now_s)


@asynccontextmanager
async def queued(
    policy: RoutingPolicy, *jobs: Job, max_wait_s: float | None = None
) -> AsyncIterator[Queued]:
    """Yield a router with these requests, admitted in turn."""
    made = Queued(policy, max_wait_s)
    for number, job in enumerate(jobs):
        await made.put(replace(job, request_id=f"r{number}"))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    for request in made.requests:
        request.close()
    made.routed.check_nothing_is_held()


LONGS = (job_of(100),) * 3
SHORTS = (job_of(4),) * 3


@pytest.mark.parametrize(
    ("policy", "waiting", "job", "wait_s", "num_ahead"),
    [
        # short after long, on prefill: one long prompt is there, two are in the queue; it overtakes
        # all, and waits for half of the step that runs
        pytest.param(LeastLoaded(), LONGS, job_of(4), 5, 0, id="short after long"),
        # long after long: 200 s here, 100 s there
        pytest.param(LeastLoaded(), LONGS, job_of(100), 300, 3, id="long after long"),
        pytest.param(LeastLoaded(), SHORTS, job_of(100), 12, 3, id="long after short"),
        pytest.param(LeastLoaded(), SHORTS, job_of(4), 12, 3, id="short after short"),
        pytest.param(
            LeastLoaded(), (*LONGS, *SHORTS), job_of(4), 12, 3, id="short after long and short"
        ),
        pytest.param(LeastLoaded(), LONGS, job_of(100, -1), 5, 0, id="urgent"),
        pytest.param(LeastLoaded(), LONGS, job_of(4, 1), 300, 3, id="of less urgency"),
        # the decode worker runs what it has first come, first served; the queue does not. The first
        # long one decodes by then: 12 steps of 9 others, 1 s longer each, and half of such a step
        pytest.param(Local(), LONGS, job_of(4), 112.5, 1, id="local, short after long"),
        pytest.param(Local(), LONGS, job_of(4, -1), 0.5, 0, id="local, urgent"),
        pytest.param(Local(), LONGS, job_of(100), 312.5, 3, id="local, long after long"),
        # one long prompt on either worker, and one in the queue for both
        pytest.param(CostBased(), LONGS, job_of(4), 5, 0, id="by cost, short after long"),
        pytest.param(CostBased(), LONGS, job_of(100), 150, 2, id="by cost, long after long"),
        # the other worker is idle
        pytest.param(CostBased(), LONGS[:1], job_of(4), 0, 0, id="by cost, idle worker"),
    ],
)
async def test_a_prompt_waits_for_those_that_run_before_it(
    policy: RoutingPolicy, waiting: tuple[Job, ...], job: Job, wait_s: float, num_ahead: int
) -> None:
    async with queued(policy, *waiting) as found:
        forecast = found.forecast(job)
        assert waits(forecast) == pytest.approx([wait_s, num_ahead])


async def test_another_tenant_s_turns_come_between() -> None:
    """ACME has 1,000 tokens in the queue: 512 of them go before ZETA's, its own all before."""
    waiting = (job_of(100, tenant=ACME), *(job_of(100, tenant=ACME),) * 10)
    async with queued(LeastLoaded(), *waiting) as found:
        assert found.routed.queue.num_waiting_tokens == 1000
        zeta = found.forecast(job_of(100, tenant=ZETA))
        assert waits(zeta) == pytest.approx([100 + 512, 1 + 6])
        acme = found.forecast(job_of(100, tenant=ACME))
        assert waits(acme) == pytest.approx([1100, 11])
        urgent = found.forecast(job_of(100, -5, tenant=ACME))
        # first of its tenant's; at the worker a named tenant may only yield
        assert waits(urgent) == pytest.approx([100, 1])


async def test_the_wait_of_an_old_prompt_counts_for_those_that_come_later() -> None:
    """Ageing: 100 s after its arrival no shorter prompt overtakes the long one in the queue."""
    async with queued(LeastLoaded(), *LONGS) as found:
        forecaster = Forecaster(found.routed.placement, found.routed.queue)
        job = job_of(4)
        decision = found.routed.placement.choose(job, 0.0)
        arrival_s = found.requests[-1].arrival.at_s
        for later_s, num_ahead in ((95.0, 0), (97.0, 2)):
            forecast = forecaster.on_arrival(job, decision, arrival_s + later_s)
            assert forecast.num_ahead == num_ahead


async def test_a_short_prompt_is_sent_past_the_long_ones_in_the_queue() -> None:
    async with queued(LeastLoaded(), *LONGS) as found:
        assert (found.routed.decode.num_live, found.routed.queue.num_waiting) == (1, 2)
        for number in range(5):
            await found.put(job_of(8, name=f"short {number}"))
        # four have the window, beside one step of the long prompt; the fifth waits for one of them
        assert found.routed.decode.num_live == 1 + 4
        assert found.forecast(job_of(8)).num_ahead == 5


async def test_a_refused_long_prompt_keeps_no_short_one_out() -> None:
    async with queued(LeastLoaded(), *LONGS, max_wait_s=250.0) as found:
        admit = found.routed.dispatcher.admit
        for limit in ("250.00", "1.00"):
            with pytest.raises(OverloadedError, match=f"more than {limit}") as caught:
                admit(job_of(100), None)
            assert caught.value.reason is Reason.QUEUE_FULL
        for number in range(4):
            await found.put(job_of(8, name=f"short {number}"))
        with pytest.raises(OverloadedError, match="after the deadline"):
            admit(job_of(100), 300.0)
        await found.put(job_of(8, name="in time"))


async def test_a_forecast_says_of_what_kind_the_prompt_is() -> None:
    async with queued(LeastLoaded()) as found:
        kinds = [found.forecast(job_of(n, p)).kind for n, p in ((8, 0), (15, 0), (16, 0), (8, 1))]
        assert kinds == [Kind(0, 4), Kind(0, 4), Kind(0, 5), Kind(1, 4)]
