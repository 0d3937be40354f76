"""How long tests wait. What they wait for is an event; the bound is there for what never comes."""

from collections.abc import Iterator

# generous, since only a test that fails waits so long; below pytest's own timeout, which names no reason
WITHIN_S = 120.0
# tests that may start a deployment: Ray, two workers and the end of both
DEPLOYMENT_S = 900.0


def ever_longer(first_s: float) -> Iterator[float]:
    """Deadlines for a test in which something has to happen before one passes, on any machine.

    Each is twice as long as the one before. A test takes the first that is long enough, and fails with the
    last, WITHIN_S.
    """
    while first_s < WITHIN_S:
        yield first_s
        first_s *= 2
    yield WITHIN_S
