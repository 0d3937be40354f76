"""Metrics that say what runs: versions, and the served model."""

import platform
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import pdserve
from router.workers.view import WorkerView


class InfoCollector(Collector):
    """Metrics whose value is 1 and whose labels are what they say."""

    def __init__(self, model: str, views: Callable[[], list[WorkerView]]) -> None:
        self._model = model
        self._views = views

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; the dtype is that of the workers, empty before the first is known."""
        build = GaugeMetricFamily(
            "pdserve_build_info", "Versions of the router", labels=("version", "python")
        )
        build.add_metric((pdserve.__version__, platform.python_version()), 1)
        model = GaugeMetricFamily(
            "pdserve_model_info", "The served model", labels=("model", "dtype")
        )
        dtypes = (view.info.dtype for view in self._views())  # all workers have the same one
        model.add_metric((self._model, next(filter(None, dtypes), "")), 1)
        return (build, model)
