"""Deadlines of tests. A test waits for an event; its deadline is for an event that never comes."""

from collections.abc import Iterator

# generous, since only a failing test waits so long; below pytest's own timeout, which gives no
# reason
WITHIN_S = 120.0
# for tests that may start a deployment: Ray, two workers and the end of both
DEPLOYMENT_S = 900.0


def ever_longer(first_s: float) -> Iterator[float]:
    """Yield deadlines for a test in which an event has to come before one passes, on any machine.

    Each is twice as long as the one before. A test takes the first that is long enough, and fails with
    the last, WITHIN_S.
    """
    while first_s < WITHIN_S:
        yield first_s
        first_s *= 2
    yield WITHIN_S
