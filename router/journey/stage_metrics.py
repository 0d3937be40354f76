"""Metrics of the stages of a choice: queue, prefill, hand-off, decode."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from common.timings import WorkTimings

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
SHORT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class StageMetrics:
    """Times that the workers report with the end of a choice. A moved one has those of its last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue = Histogram(
            "pdserve_request_queue_time_seconds",
            "Arrival at the router to the first prefill chunk",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.prefill = Histogram(
            "pdserve_request_prefill_time_seconds",
            "Start of the first prefill chunk to the end of the last one",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._handoff = Histogram(
            "pdserve_handoff_seconds",
            "End of the last prefill chunk to the decode step that includes the request",
            buckets=SHORT_BUCKETS,
            registry=registry,
        )
        self.decode = Histogram(
            "pdserve_request_decode_time_seconds",
            "Start of the first decode step to the end of the last one",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._chunks = Counter("pdserve_prefill_chunks", "Prefill chunks", registry=registry)
        self._kv_bytes = Counter(
            "pdserve_kv_shipped_bytes", "KV from prefill to decode", registry=registry
        )

    def note(self, submitted_s: float, timings: WorkTimings) -> None:
        """Count a finished choice, which was submitted `submitted_s` seconds after it arrived."""
        self.queue.observe(submitted_s + timings.queue_s)
        self._chunks.inc(len(timings.prefill_chunks))
        self._kv_bytes.inc(timings.kv_bytes)
        if timings.handoff_s:
            self._handoff.observe(timings.handoff_s)
        if (prefill_s := _prefill_s(timings)) is not None:
            self.prefill.observe(prefill_s)
        if timings.decode_steps:
            first, last = timings.decode_steps[0], timings.decode_steps[-1]
            self.decode.observe(last.start_s + last.duration_s - first.start_s)


def _prefill_s(timings: WorkTimings) -> float | None:
    """Return the seconds of prefill; None if no chunk ran.

    A chunk behind the first decode step on the same worker recomputes after a preemption, and is
    left out.
    """
    steps = timings.decode_steps
    chunks = [
        chunk
        for chunk in timings.prefill_chunks
        if chunk.is_remote or not steps or chunk.start_s < steps[0].start_s
    ]
    if not chunks:
        return None
    end_s = max(chunk.start_s + chunk.duration_s for chunk in chunks)
    return end_s - min(chunk.start_s for chunk in chunks)
