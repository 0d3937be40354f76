"""Metrics of the export of traces, read when scraped."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from common.telemetry.tracing.tracing import Tracing


class TraceCollector(Collector):
    """Metrics of the spans of sampled requests; all 0 while tracing is off."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the exporter now."""
        counts = self._tracing.counts
        exported = CounterMetricFamily(
            "pdserve_trace_spans_exported", "Spans that the collector of traces took"
        )
        exported.add_metric((), counts.exported)
        dropped = CounterMetricFamily(
            "pdserve_trace_spans_dropped", "Spans that were lost, by reason", labels=("reason",)
        )
        dropped.add_metric(("queue_full",), counts.queue_full)
        dropped.add_metric(("export_failed",), counts.export_failed)
        dropped.add_metric(("rejected",), counts.rejected)
        return (exported, dropped)
