"""A prefill worker: its engine in the shell that both roles share, and the source of its KV streams."""

from dataclasses import dataclass

from common.config import WorkerSpec
from common.engine.memory.kv_cache import kv_layout
from common.engine.sampling.grammars import Grammars
from common.messages import SequenceOutput, StepOutput, WorkFailure, WorkRequest
from common.worker.counters import Counters
from common.worker.host import EngineHost
from common.worker.shell import WorkerShell
from common.worker.step_feed import StepFeed
from pdserve.errors import Reason
from prefill_worker.engine import PrefillEngine
from prefill_worker.order import PrefillOrder
from prefill_worker.scheduler import PrefillScheduler
from prefill_worker.send_credit import SendCredit
from prefill_worker.source import PrefillSource


@dataclass(frozen=True, slots=True)
class PrefillWorker:
    """The two doors to one engine: `shell` for routers, `source` for decode workers."""

    shell: WorkerShell[PrefillEngine]
    source: PrefillSource


class NoIntake:
    """Refuses a router's requests: prompts come from the decode workers that need their KV."""

    def __init__(self, feed: StepFeed) -> None:
        self._feed = feed

    def submit(self, request: WorkRequest) -> None:
        """Publish the refusal."""
        failure = WorkFailure(
            Reason.INTERNAL, "a prefill worker takes work from decode workers only"
        )
        self._feed.publish(StepOutput((SequenceOutput(request.request_id, 0, failure=failure),)))

    def cancel(self, request_id: str) -> None:
        """Do nothing: no request was ever taken."""


def make_prefill_worker(spec: WorkerSpec, host: EngineHost) -> PrefillWorker:
    """Build a prefill worker upon `host`."""
    engine, loop, feed = host.engine, host.loop, StepFeed()
    order = PrefillOrder(engine.costs.seconds_left, engine.config.ttft_target_s)
    scheduler = PrefillScheduler(engine.prefix, order, engine.costs)
    grammars = Grammars(spec.model_dir, engine.spec, loop.wake, host.compiler)
    prefill = PrefillEngine(engine, scheduler, grammars, Counters(), feed.publish)
    credit = SendCredit(host.store, kv_layout(engine.spec), engine.limits.max_batch_tokens)
    source = PrefillSource(engine.spec, engine.prefix, loop, prefill, credit)
    shell = WorkerShell(spec, host, prefill, NoIntake(feed), feed, credit.stream_use)
    return PrefillWorker(shell, source)
