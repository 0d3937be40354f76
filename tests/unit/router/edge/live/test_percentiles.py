"""Percentiles from a histogram's buckets, over a window."""

import pytest
from prometheus_client import CollectorRegistry, Histogram

from router.edge.live.percentiles import LatencyWindow, quantile

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 10, 10], 0.5, 0.5),  # all between 0 and 1
        ([0, 10, 10], 0.5, 1.5),  # all between 1 and 2
        ([5, 10, 10], 0.5, 1.0),
        ([5, 10, 10], 0.99, 1.98),
        ([0, 0, 10], 0.99, 2.0),  # beyond the last bound
    ],
)
def test_a_quantile_lies_within_its_bucket(
    counts: list[float], share: float, expected: float | None
) -> None:
    assert quantile([1.0, 2.0, INFINITE], counts, share) == (
        expected if expected is None else pytest.approx(expected)
    )


def test_only_what_the_window_saw_counts() -> None:
    histogram = Histogram("seconds", "Some", buckets=(1, 2), registry=CollectorRegistry())
    window = LatencyWindow(histogram, window_s=10.0)
    for _ in range(100):
        histogram.observe(1.5)
    window.look(0.0)
    assert window.describe() == {"num": 0, "p50_s": None, "p99_s": None}
    histogram.observe(0.5)
    window.look(1.0)
    assert window.describe() == {"num": 1, "p50_s": 0.5, "p99_s": 0.99}
    for at_s in range(2, 40):
        window.look(float(at_s))
        assert len(window._looks) <= 12
    assert window.describe() == {"num": 0, "p50_s": None, "p99_s": None}
