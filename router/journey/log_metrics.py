"""Metric of log lines that were lost."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from common.telemetry.log_sink import num_lost_lines


class LogCollector(Collector):
    """Number of the process's log lines that its stderr did not take."""

    def collect(self) -> Iterable[Metric]:
        """Yield the metric now."""
        lost = CounterMetricFamily(
            "pdserve_log_lines_lost", "Log lines that stderr did not take: a full disk or pipe"
        )
        lost.add_metric((), num_lost_lines())
        yield lost
