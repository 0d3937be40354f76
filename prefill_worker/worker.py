"""A prefill worker: the engine in its thread, and the two doors to it (KV streams, control)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from common.config import WorkerSpec
from common.engine.memory.kv_cache import kv_layout
from common.engine.request_check import refusal_of
from common.engine.sampling.grammars import Grammars
from common.engine.sequence import Sequence
from common.kv_transfer.wire import WireItem, make_failure
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
from pdserve.errors import Reason
from prefill_worker.engine import PrefillEngine
from prefill_worker.order import PrefillOrder
from prefill_worker.outbox import KVOutbox
from prefill_worker.scheduler import PrefillScheduler
from prefill_worker.send_credit import SendCredit


class PrefillWorker:
    """A KVSource for decode workers and a WorkerPort for routers."""

    def __init__(self, spec: WorkerSpec, host: EngineHost) -> None:
        self._loop, engine = host.loop, host.engine
        order = PrefillOrder(engine.costs.seconds_left, engine.config.ttft_target_s)
        scheduler = PrefillScheduler(engine.prefix, order, engine.costs)
        self.info: WorkerInfo = make_info(spec, engine.spec, engine.costs.profile)
        self._spec, self._prefix = engine.spec, engine.prefix
        self.prefixes = engine.pool.prefixes
        grammars = Grammars(spec.model_dir, engine.spec, self._loop.wake)
        self._engine = PrefillEngine(engine, scheduler, grammars, Counters())
        self._store = host.store
        layout, step_tokens = kv_layout(engine.spec), engine.config.max_batch_tokens
        self.send_credit = SendCredit(host.store, layout, step_tokens)
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._load = self._engine.load()
        self._is_retired = False

    def start(self) -> None:
        """Have the engine's thread do this role's work."""
        self._loop.start(self._step, self._idle)

    def retire(self) -> None:
        """Give up all prompts and take none any more. In the engine's thread.

        Streams whose prompt has run go on to their end: what they yield was copied out of the blocks.
        """
        self._is_retired = True
        self._engine.retire()
        self._engine.close()

    def stop(self, timeout_s: float) -> bool:
        """Stop it; whether it stopped in time."""
        has_stopped = self._loop.stop(timeout_s)
        self._engine.close()  # the engine's thread uses what this ends
        return has_stopped

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """See KVSource.stream. Runs in a transport's thread. What no step may run is refused at once."""
        if (refusal := refusal_of(request, self._spec)) is not None:
            key = (request.request_id, request.attempt)
            yield make_failure(*key, refusal.reason, refusal.message)
            return
        request = replace(request, max_item_tokens=self.send_credit.max_item_tokens(request))
        seq = self._prefix.new_sequence(request, time.monotonic())
        outbox = KVOutbox(self.send_credit.look_again)
        self._loop.post(lambda: self._take(seq, outbox))
        is_complete = False
        try:
            yield from self.send_credit.pass_on(outbox, self.send_credit.cost(request))
            is_complete = True
        finally:
            if not is_complete:
                self.cancel_stream(request.request_id, request.attempt)

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """See KVSource.cancel_stream."""
        self._loop.post(lambda: self._engine.cancel((request_id, attempt)))

    def submit(self, request: WorkRequest) -> None:
        """See WorkerPort.submit. Refused: prompts come from the decode worker that will need their KV."""
        failure = WorkFailure(
            Reason.INTERNAL, "a prefill worker takes work from decode workers only"
        )
        self._publish(StepOutput((SequenceOutput(request.request_id, 0, failure=failure),)))

    def cancel(self, request_id: str) -> None:
        """See WorkerPort.cancel. Nothing was ever submitted here."""

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
        self._load = self._engine.load()
        if worked:
            self._publish(StepOutput(load=self._load))
        return worked

    def _take(self, seq: Sequence, outbox: KVOutbox) -> None:
        if self._is_retired:  # asked by a decode worker whose router did not know yet
            key = (seq.request_id, seq.request.attempt)
            outbox.put(make_failure(*key, Reason.WORKER_LOST, "no prefill worker any more"))
            outbox.finish()
        else:
            self._engine.accept(seq, outbox)

    def _publish(self, output: StepOutput) -> None:
        for sink in tuple(self._sinks):
            sink(output)

    def _idle(self) -> None:
        self._engine.check_integrity()
