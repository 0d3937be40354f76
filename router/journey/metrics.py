"""The router's Prometheus metrics, in seconds and bytes. Names follow the field's dashboards.

docs/operate/metrics.md lists all of them.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.registry import Collector

from common.messages import FinishReason
from common.router_config import RouterConfig
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.errors import Reason
from router.admission.admission import Admission
from router.journey.admission_metrics import AdmissionCollector
from router.journey.info_metrics import InfoCollector
from router.journey.log_metrics import LogCollector
from router.journey.slo_metrics import Slo, SloMetrics
from router.journey.stage_metrics import LATENCY_BUCKETS, SHORT_BUCKETS, StageMetrics
from router.journey.tenant_metrics import TenantMetrics
from router.journey.token_histogram import TokenHistogram
from router.journey.trace_metrics import TraceCollector
from router.journey.worker_metrics import WorkerCollector
from router.workers.view import WorkerView

_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))

_DEFAULTS = RouterConfig()


class RouterMetrics:
    """Metrics of one router, in a registry of their own."""

    def __init__(
        self,
        model: str,
        admission: Admission,
        views: Callable[[], list[WorkerView]],
        config: RouterConfig = _DEFAULTS,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self.ttft = self._seconds("time_to_first_token", "Arrival at the router to the first token")
        self.itl = self._gaps("inter_token_latency", "Gap between two tokens")
        self.e2e = self._seconds("e2e_request_latency", "Arrival at the router to the last token")
        self.tpot = self._seconds(
            "request_time_per_output_token", "First to last token, by token", SHORT_BUCKETS
        )
        self.stages = StageMetrics(registry)
        self.slo = SloMetrics(registry, Slo(config.slo_ttft_s, config.slo_tpot_s))
        self.tenants = TenantMetrics(config.metrics_tenants)
        admission.refusals.listeners.append(self.tenants.note_refused)
        self.prompt_lengths = self._tokens("request_prompt_tokens", "Tokens of a prompt")
        self.output_lengths = self._tokens("request_generation_tokens", "Tokens of an answer")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens")
        self.cached_tokens = self._counter("prompt_tokens_cached", "Of these, found in a cache")
        self.output_tokens = self._counter("generation_tokens", "Generated tokens")
        self.finished = self._labelled(
            "requests_finished",
            "Ends of accepted requests, by reason",
            "reason",
            (*FinishReason, *Reason),
        )
        self.migrations = self._labelled(
            "request_migrations",
            "Choices that went on at another worker or router, by what happened to the one before",
            "cause",
            ("death", "loss", "router"),
        )
        collectors = _collectors(model, admission, views)
        for collector in (*collectors, self.tenants, TraceCollector(tracing)):
            registry.register(collector)
        ProcessCollector(registry=registry)

    def _seconds(
        self, name: str, text: str, buckets: tuple[float, ...] = LATENCY_BUCKETS
    ) -> Histogram:
        return Histogram(f"pdserve_{name}_seconds", text, buckets=buckets, registry=self.registry)

    def _gaps(self, name: str, text: str) -> TokenHistogram:
        return TokenHistogram(f"pdserve_{name}_seconds", text, SHORT_BUCKETS, self.registry)

    def _tokens(self, name: str, text: str) -> Histogram:
        return Histogram(f"pdserve_{name}", text, buckets=_TOKENS, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pdserve_{name}", text, labels, registry=self.registry)

    def _labelled(self, name: str, text: str, label: str, values: Iterable[str]) -> Counter:
        """Return a counter that has every value of its label from the start."""
        counter = self._counter(name, text, label)
        for value in values:
            counter.labels(value)
        return counter


def _collectors(
    model: str, admission: Admission, views: Callable[[], list[WorkerView]]
) -> Iterable[Collector]:
    """Yield the collectors of what others count, which is read when scraped."""
    yield AdmissionCollector(admission)
    yield WorkerCollector(views)
    yield InfoCollector(model, views)
    yield LogCollector()
