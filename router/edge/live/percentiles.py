"""Percentiles of a latency over the last seconds, estimated from its histogram as Prometheus does."""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from prometheus_client.registry import Collector

_WINDOW_S = 30.0


class LatencyWindow:
    """Counts of a histogram's buckets over the last 30 s, or since the first look."""

    def __init__(self, histogram: Collector, window_s: float = _WINDOW_S) -> None:
        self._histogram = histogram
        self._window_s = window_s
        self._looks: deque[tuple[float, list[float]]] = deque()  # with cumulative counts
        self._bounds: list[float] = []

    def look(self, at_s: float) -> None:
        """Read the histogram; `at_s` is on a monotonic clock."""
        (metric,) = self._histogram.collect()
        buckets = [sample for sample in metric.samples if sample.name.endswith("_bucket")]
        self._bounds = [float(sample.labels["le"]) for sample in buckets]
        self._looks.append((at_s, [sample.value for sample in buckets]))
        # the oldest that is kept lies at or before the window's start
        while len(self._looks) > 2 and self._looks[1][0] <= at_s - self._window_s:
            self._looks.popleft()

    def describe(self) -> dict[str, object]:
        """Return num, p50_s and p99_s; the percentiles are None while nothing was observed."""
        first, last = self._looks[0][1], self._looks[-1][1]
        counts = [new - old for old, new in zip(first, last, strict=True)]
        return {
            "num": round(counts[-1]),
            "p50_s": quantile(self._bounds, counts, 0.5),
            "p99_s": quantile(self._bounds, counts, 0.99),
        }


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of the observations do not exceed, None without any.

    `counts` is cumulative, and the last of `bounds` is infinite. Values lie evenly in a bucket;
    beyond the last finite bound the answer is that bound.
    """
    wanted = share * counts[-1]
    if not counts[-1]:
        return None
    edges = [(0.0, 0.0), *zip(bounds, counts, strict=True)]
    for (low, below), (high, upto) in pairwise(edges):
        if upto >= wanted and upto > below:
            if high == float("inf"):
                return low
            return low + (high - low) * (wanted - below) / (upto - below)
    return bounds[-2]
