"""Export of ended traces, in a thread of its own.

1. `SpanExporter.put` adds a trace to a bounded queue, on the router's event loop. A full queue drops it.
2. The thread gathers traces for a second, or until a batch is full, and sends the batch once.
3. A batch that cannot be sent is dropped. The next one waits, twice as long after each failure.
   The first failure writes a warning; the next warning needs a batch that got through before.
4. `stop` has what waits sent, within a limit.

Every span that is not sent is counted.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass

from common.telemetry.logs import get_logger
from common.telemetry.tracing.span import EndedTrace

_MAX_QUEUED_SPANS = 16_384
_BATCH_SPANS = 2_048
_GATHER_S = 1.0
_MAX_PAUSE_S = 30.0
_MAX_DOUBLINGS = 10
_log = get_logger()


class ExportError(Exception):
    """Failure to send a batch; the message has one line."""


# Sends a batch. Returns the number of spans that the collector refused; raises ExportError.
Send = Callable[[Sequence[EndedTrace]], int]


@dataclass(slots=True)
class ExportCounts:
    """Numbers of spans by what became of them."""

    exported: int = 0
    queue_full: int = 0
    export_failed: int = 0
    rejected: int = 0  # by the collector


class SpanExporter:
    """Queue of ended traces, and the thread that sends them."""

    def __init__(
        self,
        send: Send,
        max_queued_spans: int = _MAX_QUEUED_SPANS,
        gather_s: float = _GATHER_S,
        max_pause_s: float = _MAX_PAUSE_S,
    ) -> None:
        self.counts = ExportCounts()
        self._send = send
        self._max_queued_spans = max_queued_spans
        self._gather_s = gather_s
        self._max_pause_s = max_pause_s
        self._num_failures = 0  # since a batch got through
        self._queue: deque[EndedTrace] = deque()
        self._num_queued_spans = 0
        self._is_stopping = False
        self._changed = threading.Condition()
        # the context has the fields of every log line of this process
        run = copy_context().run
        self._thread = threading.Thread(
            target=lambda: run(self._run), name="span-export", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, trace: EndedTrace) -> None:
        """Queue a trace, or drop and count it."""
        with self._changed:
            total = self._num_queued_spans + trace.num_spans
            if self._is_stopping or total > self._max_queued_spans:
                self.counts.queue_full += trace.num_spans
                return
            self._queue.append(trace)
            was_full = self._num_queued_spans >= _BATCH_SPANS
            self._num_queued_spans = total
            # in between the thread sleeps, so that a trace costs it nothing
            if len(self._queue) == 1 or (total >= _BATCH_SPANS and not was_full):
                self._changed.notify()

    def stop(self, within_s: float) -> None:
        """Send what waits; what takes longer is dropped, and logged. Safe to repeat."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if not self._thread.ident:
            return
        self._thread.join(within_s)
        if self._thread.is_alive():
            _log.warning("trace_export_cut", num_spans_queued=self._num_queued_spans)

    def _run(self) -> None:
        while batch := self._take():
            num_spans = sum(trace.num_spans for trace in batch)
            try:
                num_rejected = min(self._send(batch), num_spans)
            except Exception as error:  # the thread has to live on
                self.counts.export_failed += num_spans
                is_known = isinstance(error, ExportError)
                self._note_failure(str(error) if is_known else type(error).__name__)
            else:
                self.counts.exported += num_spans - num_rejected
                self.counts.rejected += num_rejected
                self._note_success()

    def _take(self) -> list[EndedTrace]:
        """Wait for a batch and take it; empty at the end."""
        with self._changed:
            if self._num_failures:
                self._changed.wait_for(lambda: self._is_stopping, self._pause_s())
            self._changed.wait_for(lambda: self._queue or self._is_stopping)
            self._changed.wait_for(self._is_due, self._gather_s)
            batch, num_spans = list[EndedTrace](), 0
            while self._queue and num_spans < _BATCH_SPANS:
                trace = self._queue.popleft()
                batch.append(trace)
                num_spans += trace.num_spans
            self._num_queued_spans -= num_spans
            return batch

    def _is_due(self) -> bool:
        return self._is_stopping or self._num_queued_spans >= _BATCH_SPANS

    def _pause_s(self) -> float:
        doublings = min(self._num_failures - 1, _MAX_DOUBLINGS)
        return min(self._gather_s * (1 << doublings), self._max_pause_s)

    def _note_failure(self, problem: str) -> None:
        if not self._num_failures:
            _log.warning("trace_export_failed", problem=problem)
        self._num_failures += 1

    def _note_success(self) -> None:
        if self._num_failures:
            self._num_failures = 0
            _log.info("trace_export_recovered", num_spans_lost=self.counts.export_failed)
