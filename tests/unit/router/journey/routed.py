"""A dispatcher over two links, with all that it holds; the test plays their workers. No sockets."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.messages import (
    FinishReason,
    Role,
    SamplingParams,
    SequenceOutput,
    WorkerInfo,
    WorkerLoad,
    WorkFailure,
)
from common.profile import Correction, WorkerProfile
from common.router_config import RouterConfig
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.v1 import worker_pb2
from router.access.tenant import ANONYMOUS, Tenant
from router.admission.admission import Admission, Outcome
from router.admission.fair_queue import FairQueue
from router.admission.prompt_queue import PromptQueue, Turn
from router.admission.wait_limit import WaitLimit
from router.intake.job import Job
from router.intake.tokenizer import Tokenizer
from router.journey.decisions import DecisionLog
from router.journey.dispatch import Dispatcher
from router.journey.journey import Journeys
from router.journey.live_request import Resources
from router.journey.metrics import RouterMetrics
from router.journey.placement import Placement
from router.journey.progress import Delta
from router.journey.relocation import Relocation
from router.journey.work_ids import WorkIds
from router.routing.policy import LeastLoaded
from router.workers.link import WorkerLink
from router.workers.outage import Outage
from router.workers.pool import WorkerPool
from tests.patience import WITHIN_S

NUM_TOKENS = 100  # of a prompt: two fill the window of 4 steps, so that a third one waits
PROFILE = WorkerProfile(
    row_seconds=(1e-9, 2e-9),
    sample_s=0.0,
    position_s=0.0,
    pair_s=0.0,
    kv_bytes_per_token=0,
    max_batch_tokens=NUM_TOKENS // 4,
    correction=Correction(handoff_s=0.0),
)
SLOW = replace(PROFILE, row_seconds=(1000.0, 2000.0))


class Routed:
    """A prefill worker "p" and a decode worker "d", both ready."""

    def __init__(self, config: RouterConfig | None = None) -> None:
        config = config or RouterConfig(max_outage_s=0)
        self.config = config
        self.pool = WorkerPool(["d", "p"], config)
        self.decode, self.prefill = self.pool._links
        self.introduce(self.decode, Role.DECODE)
        self.introduce(self.prefill, Role.PREFILL)
        self.admission = Admission(config)
        self.decisions = DecisionLog()
        self.placement = Placement(self.pool, LeastLoaded(), self.decisions)
        fair_queue = FairQueue[Turn](self.admission.tenants.weight)
        self.queue = PromptQueue(fair_queue, self.placement.room_tokens)
        self.outage = Outage(self.pool.is_ready, config.max_outage_s)
        self.dispatcher = Dispatcher(
            Resources(self.admission, self.queue, self.pool),
            self.placement,
            WaitLimit(config.max_wait_s),
            WorkIds("me"),
            self.outage,
            config.max_unread_tokens,
        )

    def introduce(self, link: WorkerLink, role: Role, profile: WorkerProfile = PROFILE) -> None:
        """Let a worker connect, or introduce itself anew."""
        link.info = WorkerInfo(link.address, role, 1, link.address, "tiny", 512, 259, profile)
        link.load = WorkerLoad(blocks_total=64, blocks_free=64, block_size=16)
        link.is_connected = True

    def journeys(self, model_dir: Path, tracing: Tracing = NO_TRACING) -> Journeys:
        """Make journeys with the folder's tokenizer."""
        self.metrics = RouterMetrics("tiny", self.admission, self.pool.views, self.config)
        relocation = Relocation(self.dispatcher, self.metrics, self.config.max_worker_deaths)
        tokenizer = Tokenizer(model_dir)
        return Journeys(
            self.dispatcher, self.placement, relocation, tokenizer, self.metrics, tracing
        )

    def add_decode(self, name: str) -> WorkerLink:
        """Add a decode worker that is ready."""
        link = self.pool._link_to(name)
        self.pool._links.append(link)
        self.introduce(link, Role.DECODE)
        return link

    def sent(self) -> list[tuple[str, str]]:
        """Take what the decode worker was sent: submits and cancels with their requests' ids."""
        found: list[tuple[str, str]] = []
        for message in take_messages(self.decode):
            if kind := message.WhichOneof("message"):
                found.append((kind, getattr(message, kind).request_id))
        return found

    def say(self, work_id: str, text: str, index: int = 0, *, ends: bool = False) -> None:
        """Let the decode worker report the text's bytes as tokens."""
        reason = FinishReason.LENGTH if ends else None
        self.decode._hand_out(SequenceOutput(work_id, index, tuple(text.encode()), reason))

    def fail(self, work_id: str, failure: WorkFailure) -> None:
        """Let the decode worker report a failure."""
        self.decode._hand_out(SequenceOutput(work_id, 0, failure=failure))

    def counts(self) -> dict[str, int]:
        """Return admission's account, without the zeros."""
        admission = self.admission
        found = {str(outcome): admission.ended[outcome] for outcome in Outcome}
        found |= {"accepted": admission.accepted, "rejected": admission.rejected}
        return {name: number for name, number in found.items() if number}

    def check_nothing_is_held(self) -> None:
        """Fail if any owner still counts a part of a request."""
        admission, queue, pool = self.admission, self.queue, self.pool
        assert (admission.num_in_flight, admission.num_queued) == (0, 0)
        assert admission.accepted == sum(admission.ended.values())
        assert (queue.num_waiting, queue._num_active, queue._num_unsent_tokens) == (0, 0, 0)
        for link in pool._links:
            assert pool.sent_prompts.totals(link.address) == (0, 0)
            assert pool.worker_use.num_requests(link.address) == 0
            assert link.num_live == 0


def take_messages(link: WorkerLink) -> list[worker_pb2.ConnectRequest]:
    """Take what a worker was sent."""
    queue, found = link._conversation._outgoing, list[worker_pb2.ConnectRequest]()
    while not queue.empty():
        if (message := queue.get_nowait()) is not None:
            found.append(message)
    return found


def make_job(
    request_id: str = "r",
    *,
    num_tokens: int = NUM_TOKENS,
    num_choices: int = 1,
    stop: tuple[str, ...] = (),
    tenant: Tenant = ANONYMOUS,
) -> Job:
    """A job of a greedy request with at most 8 tokens to come."""
    sampling = SamplingParams(0.0, 0, 8)
    prompt = (7,) * num_tokens
    return Job(request_id, prompt, sampling, stop, num_choices=num_choices, tenant=tenant)


async def read(journeys: Journeys, job: Job, timeout_s: float | None = None) -> list[Delta]:
    """Run a request and return all its deltas."""
    return [delta async for delta in journeys.run(job, timeout_s)]


async def until(is_so: Callable[[], bool]) -> None:
    """Let other tasks run until it is so; fails after WITHIN_S."""
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            await asyncio.sleep(0)
