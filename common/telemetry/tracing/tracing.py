"""Tracing of requests: which ones are sampled, and where their spans go when they have ended."""

import random
import time
from datetime import UTC, datetime

from common.telemetry.tracing.caller import Caller, parse_traceparent, parse_tracestate
from common.telemetry.tracing.exporter import ExportCounts, SpanExporter
from common.telemetry.tracing.span import EndedTrace, Span, Trace

_RANDOM_BITS = 64  # of a trace id, by which it is sampled; as OpenTelemetry's TraceIdRatioBased


class Tracing:
    """Samples requests by their caller's decision, or else by a ratio. Call it on one thread."""

    def __init__(
        self, exporter: SpanExporter | None = None, sample_ratio: float = 1.0, model: str = ""
    ) -> None:
        """Trace requests for the served model; nothing without an exporter."""
        self.model = model
        self._exporter = exporter
        self._bound = round(sample_ratio * 2**_RANDOM_BITS)

    @property
    def counts(self) -> ExportCounts:
        """Numbers of spans that were sent, and that were not."""
        return self._exporter.counts if self._exporter is not None else ExportCounts()

    def begin(self, caller: Caller) -> Trace | None:
        """Return the trace of a request; None if it is not sampled."""
        if self._exporter is None:
            return None
        parent = parse_traceparent(caller.traceparent) if caller.traceparent else None
        if parent is not None:
            if not parent.is_sampled:
                return None
            return Trace(parent.trace_id, parent.span_id, parse_tracestate(caller.tracestate))
        trace_id = random.getrandbits(128)
        is_sampled = trace_id % 2**_RANDOM_BITS < self._bound
        return Trace(trace_id) if is_sampled and trace_id else None

    def end(self, trace: Trace, root: Span) -> None:
        """Hand a request's spans over to be sent. Never blocks: a full queue drops them."""
        if self._exporter is not None:
            # the two clocks are read together, so that a span's length is that of one clock
            epoch_s = datetime.now(UTC).timestamp() - time.monotonic()
            self._exporter.put(EndedTrace(trace, root, epoch_s))

    def start(self) -> None:
        """Start to send."""
        if self._exporter is not None:
            self._exporter.start()

    def stop(self, within_s: float) -> None:
        """Send what waits, for so long at most. Blocks meanwhile."""
        if self._exporter is not None:
            self._exporter.stop(within_s)


NO_TRACING = Tracing()
