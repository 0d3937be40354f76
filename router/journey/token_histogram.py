"""Histogram for what happens once a token: its `observe` costs a quarter of prometheus_client's."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class TokenHistogram(Collector):
    """Histogram without labels. One thread observes, so it needs no lock; any thread may collect.

    A collection beside an observation may have it in the buckets and not yet in the sum.
    """

    def __init__(
        self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """Take the upper bounds in their order; beyond the last one comes infinity by itself."""
        self._name = name
        self._text = text
        self._bounds = (*buckets, inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._created_s = datetime.now(UTC).timestamp()
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count a value. Each token comes by here, so it does little."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """Yield the metric now, as prometheus_client's Histogram does."""
        counts = accumulate(tuple(self._counts))
        labels = map(floatToGoString, self._bounds)
        found = HistogramMetricFamily(self._name, self._text)
        found.add_metric((), list(zip(labels, counts, strict=True)), self._sum)
        found.add_sample(f"{self._name}_created", {}, self._created_s)
        yield found
