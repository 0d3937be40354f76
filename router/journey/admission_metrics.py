"""Metrics of admission's account, read when scraped."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.admission.admission import Admission


class AdmissionCollector(Collector):
    """Metrics of requests that run, have ended, or were refused."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the account now."""
        admission = self._admission
        ended = CounterMetricFamily("pdserve_requests", "Ended requests", labels=("outcome",))
        for outcome, count in admission.ended.items():
            ended.add_metric((str(outcome),), count)
        ended.add_metric(("rejected",), admission.rejected)
        refused = CounterMetricFamily(
            "pdserve_requests_refused", "Requests that were refused, by reason", labels=("reason",)
        )
        for reason, count in admission.refusals.by_reason.items():
            refused.add_metric((str(reason),), count)
        in_flight = GaugeMetricFamily("pdserve_requests_in_flight", "Accepted, not ended")
        in_flight.add_metric((), admission.num_in_flight)
        queued = GaugeMetricFamily("pdserve_requests_queued", "Accepted, without a token")
        queued.add_metric((), admission.num_queued)
        return (ended, refused, in_flight, queued)
