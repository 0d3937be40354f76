"""The router's Prometheus metrics, in seconds and bytes. Names follow the field's dashboards."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.admission.admission import Admission
from router.workers.pool import WorkerState, WorkerView

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class RouterMetrics:
    """Metrics of one router, in a registry of their own."""

    def __init__(self, admission: Admission, views: Callable[[], list[WorkerView]]) -> None:
        self.registry = registry = CollectorRegistry()
        self.ttft = self._histogram(
            "time_to_first_token", "Arrival at the router to the first token", _LATENCY
        )
        self.itl = self._histogram(
            "inter_token_latency", "Gap between two consecutive tokens", _SHORT
        )
        self.queue_time = self._histogram(
            "request_queue_time", "Arrival at the router to the first prefill chunk", _LATENCY
        )
        self.e2e = self._histogram(
            "e2e_request_latency", "Arrival at the router to the last token", _LATENCY
        )
        self.handoff = self._histogram(
            "handoff",
            "End of the last prefill chunk to the decode step that includes the request",
            _SHORT,
        )
        self.prompt_tokens = Counter("pdserve_prompt_tokens", "Prompt tokens", registry=registry)
        self.cached_tokens = Counter(
            "pdserve_prompt_tokens_cached",
            "Prompt tokens that a prefix cache held",
            registry=registry,
        )
        self.output_tokens = Counter(
            "pdserve_generation_tokens", "Generated tokens", registry=registry
        )
        self.kv_bytes = Counter(
            "pdserve_kv_shipped_bytes", "KV from prefill to decode", registry=registry
        )
        self.migrations = Counter(
            "pdserve_request_migrations",
            "Choices that went on at another worker, by what happened to the one before",
            ("cause",),
            registry=registry,
        )
        registry.register(_AdmissionCollector(admission))
        registry.register(_WorkerCollector(views))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"pdserve_{name}_seconds", text, buckets=buckets, registry=self.registry)


class _AdmissionCollector(Collector):
    """Metrics of admission's account, read when scraped."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        admission = self._admission
        ended = CounterMetricFamily("pdserve_requests", "Ended requests", labels=("outcome",))
        for outcome, count in admission.ended.items():
            ended.add_metric((str(outcome),), count)
        ended.add_metric(("rejected",), admission.rejected)
        in_flight = GaugeMetricFamily("pdserve_requests_in_flight", "Accepted, not ended")
        in_flight.add_metric((), admission.num_in_flight)
        queued = GaugeMetricFamily("pdserve_requests_queued", "Accepted, without a token")
        queued.add_metric((), admission.num_queued)
        return (ended, in_flight, queued)


class _WorkerCollector(Collector):
    """Metrics of the workers' last reports, read when scraped."""

    def __init__(self, views: Callable[[], list[WorkerView]]) -> None:
        self._views = views

    def collect(self) -> Iterable[Metric]:
        views = self._views()
        labels = ("worker", "role")
        up = GaugeMetricFamily("pdserve_worker_up", "1 while ready", labels=labels)
        running = GaugeMetricFamily(
            "pdserve_worker_sequences_running", "In the batch", labels=labels
        )
        waiting = GaugeMetricFamily(
            "pdserve_worker_sequences_waiting", "Not in it yet", labels=labels
        )
        blocks = GaugeMetricFamily(
            "pdserve_worker_kv_blocks", "KV blocks by state", labels=(*labels, "state")
        )
        credit = GaugeMetricFamily(
            "pdserve_worker_kv_credit_bytes", "KV on its way to decode", labels=(*labels, "state")
        )
        spilled = CounterMetricFamily(
            "pdserve_object_store_spilled_bytes",
            "Written to disk by the object store of the worker's node: 0 unless it was full",
            labels=labels,
        )
        for view in views:
            key = (view.info.name, str(view.info.role))
            up.add_metric(key, float(view.state is WorkerState.READY))
            running.add_metric(key, view.load.num_running)
            waiting.add_metric(key, view.load.num_waiting)
            blocks.add_metric((*key, "total"), view.load.blocks_total)
            blocks.add_metric((*key, "free"), view.load.blocks_free)
            blocks.add_metric((*key, "cached"), view.load.blocks_cached)
            credit.add_metric((*key, "total"), view.load.credit_bytes)
            credit.add_metric((*key, "wanted"), view.load.credit_wanted_bytes)
            spilled.add_metric(key, view.load.spilled_bytes)
        return (up, running, waiting, blocks, credit, spilled)
