"""A decode worker: the engine in its thread, and the door to it."""

import time
from collections.abc import Callable

from common.config import WorkerSpec
from common.engine.build import Engine
from common.engine.memory.host_swap import HostSwap
from common.engine.memory.kv_cache import kv_layout
from common.engine.request_check import refusal_of
from common.engine.sampling.grammars import Grammars
from common.engine.sequence import Sequence
from common.kv_transfer.transport import KVTransport
from common.ledger import BlockLedger
from common.messages import (
    SequenceOutput,
    StepOutput,
    WorkerInfo,
    WorkerLoad,
    WorkFailure,
    WorkRequest,
)
from common.worker.counters import Counters
from common.worker.host import EngineHost
from common.worker.identity import at_this_moment, make_info
from decode_worker.engine import DecodeEngine
from decode_worker.inbox import Inbox
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Preemption
from decode_worker.scheduler import DecodeScheduler
from pdserve.errors import Reason


def make_scheduler(engine: Engine) -> DecodeScheduler:
    """The scheduler that an engine's configuration describes."""
    config, max_bytes = engine.config, int(engine.config.swap_gib * 2**30)
    memory = HostSwap(engine.cache, engine.prefix, max_bytes, engine.costs)
    return DecodeScheduler(
        engine.prefix,
        OutputLengths(),
        Preemption(config.preemption, engine.costs, memory),
        engine.costs,
        config.watermark,
    )


class DecodeWorker:
    """A WorkerPort for routers; pulls KV through `transport`."""

    def __init__(self, spec: WorkerSpec, host: EngineHost, transport: KVTransport) -> None:
        self._loop, engine = host.loop, host.engine
        self.info: WorkerInfo = make_info(spec, engine.spec, engine.costs.profile)
        self._spec, self._prefix = engine.spec, engine.prefix
        self.prefixes = engine.pool.prefixes
        scheduler = make_scheduler(engine)
        layout = kv_layout(engine.spec)
        wake = self._loop.wake
        inbox = Inbox(
            engine.prefix,
            engine.cache,
            engine.costs,
            layout,
            transport,
            spec.transfer,
            wake,
            host.store,
        )
        grammars = Grammars(spec.model_dir, engine.spec, wake)
        self._engine = DecodeEngine(engine, scheduler, inbox, grammars, Counters(), self._publish)
        self._store = host.store
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._load = self._engine.load()
        self._is_retired = False

    def start(self) -> None:
        """Have the engine's thread do this role's work."""
        self._loop.start(self._step, self._idle)

    def retire(self) -> None:
        """End all work with WORKER_LOST and take none any more. In the engine's thread."""
        self._is_retired = True
        self._engine.retire()
        self._step()  # which publishes the ends
        self._engine.close()

    def stop(self, timeout_s: float) -> bool:
        """Stop it; whether it stopped in time."""
        has_stopped = self._loop.stop(timeout_s)
        self._engine.close()  # the engine's thread uses what this ends
        return has_stopped

    def submit(self, request: WorkRequest) -> None:
        """See WorkerPort.submit. What no step may run is refused, before anything is made of it."""
        if (refusal := refusal_of(request, self._spec)) is not None:
            self._loop.post(lambda: self._refuse(request.request_id, refusal))
            return
        seq = self._prefix.new_sequence(request, time.monotonic())
        self._loop.post(lambda: self._take(seq))

    def cancel(self, request_id: str) -> None:
        """See WorkerPort.cancel."""
        self._loop.post(lambda: self._engine.cancel(request_id))

    def load(self) -> WorkerLoad:
        """See WorkerPort.load."""
        return at_this_moment(self._load, self._loop.progress_age_s, self._store)

    def ask_blocks(self, request_id: str, answer: Callable[[BlockLedger], None]) -> None:
        """See WorkerPort.ask_blocks."""
        self._loop.post(lambda: answer(self._engine.ledger(request_id)))

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """See WorkerPort.subscribe."""
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def _step(self) -> bool:
        worked = self._engine.step()
        if not worked:
            self._load = self._engine.load()
        return worked

    def _take(self, seq: Sequence) -> None:
        if self._is_retired:  # sent by a router that does not know yet
            failure = WorkFailure(Reason.WORKER_LOST, "the worker is no decode worker any more")
            self._refuse(seq.request_id, failure)
        else:
            self._engine.submit(seq)

    def _refuse(self, request_id: str, failure: WorkFailure) -> None:
        self._publish(StepOutput((SequenceOutput(request_id, 0, failure=failure),)))

    def _publish(self, output: StepOutput) -> None:
        self._load = output.load or self._load
        for sink in tuple(self._sinks):
            sink(output)

    def _idle(self) -> None:
        self._engine.check_integrity()
