"""The histogram of gaps between tokens: what it shows is what prometheus_client's would."""

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from router.journey.token_histogram import TokenHistogram

BUCKETS = (0.001, 0.5, 1, 2.5)
VALUES = st.one_of(st.sampled_from(BUCKETS), st.floats(0, 10))


def shown(registry: CollectorRegistry) -> str:
    """Return a scrape, without the moments when its metrics were made."""
    return re.sub(r"(_created) .*", r"\1", generate_latest(registry).decode())


@given(st.lists(VALUES))
def test_a_scrape_is_that_of_prometheus_client(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counted = TokenHistogram("gap_seconds", "A gap", BUCKETS, ours)
    expected = Histogram("gap_seconds", "A gap", buckets=BUCKETS, registry=theirs)
    for value in values:
        counted.observe(value)
        expected.observe(value)
    assert shown(ours) == shown(theirs)
