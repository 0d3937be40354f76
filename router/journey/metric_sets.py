"""Metrics of a router, with the sets that its settings ask for."""

from collections.abc import Callable

from common.router_config import RouterConfig
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from router.admission.admission import Admission
from router.journey.metrics import RouterMetrics
from router.journey.vllm_metrics import VllmCollector
from router.workers.view import WorkerView


def make_metrics(
    model: str,
    admission: Admission,
    views: Callable[[], list[WorkerView]],
    config: RouterConfig,
    tracing: Tracing = NO_TRACING,
) -> RouterMetrics:
    """Return the metrics, with those under vLLM's names if router.metrics_compat asks for them."""
    metrics = RouterMetrics(model, admission, views, config, tracing)
    if config.metrics_compat == "vllm":
        metrics.registry.register(VllmCollector(model, metrics, admission, views))
    return metrics
