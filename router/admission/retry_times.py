"""Times at which refused requests should come again. Plain numbers; the clock is the caller's."""

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b

from router.admission.arrival_rate import ArrivalRate

MAX_BACKLOG_S = 30.0
_LEAST_RATE_PER_S = 1.0


@dataclass(slots=True)
class _Line:
    """A tenant's refused requests, in the order in which they should come again."""

    accepted: ArrivalRate = field(default_factory=ArrivalRate)
    until_s: float = float("-inf")  # when the last one is due


class RetryTimes:
    """Spreads retries, so that about as many come as are admitted, and not all at once.

    Each refusal takes the next place in its tenant's line. The line moves as fast as that tenant's
    requests were admitted lately, so that no tenant delays another, and is at most MAX_BACKLOG_S
    long. A jitter of half the line either way keeps requests apart that were refused together when
    the line was full. The jitter depends on the request's name alone, so that tests can predict it.
    """

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)

    def note_accepted(self, tenant: str, now_s: float) -> None:
        """Count an admitted request of a tenant."""
        self._lines[tenant].accepted.arrive(now_s)

    def delay_s(self, tenant: str, request: str, least_s: float, now_s: float) -> float:
        """Return the seconds until a refused request may come again: `least_s` and its place."""
        self._lines[tenant].until_s = self._next_s(tenant, now_s)
        return least_s + (self._lines[tenant].until_s - now_s) * (0.5 + _fraction(request))

    def outlook_s(self, tenant: str, request: str, least_s: float, now_s: float) -> float:
        """Return what `delay_s` would, for a request that takes no place in the line."""
        return least_s + (self._next_s(tenant, now_s) - now_s) * (0.5 + _fraction(request))

    def _next_s(self, tenant: str, now_s: float) -> float:
        """Return when the next place of the line is due."""
        line = self._lines[tenant]
        gap_s = 1 / max(line.accepted.per_s(now_s), _LEAST_RATE_PER_S)
        return min(max(line.until_s, now_s) + gap_s, now_s + MAX_BACKLOG_S)


def _fraction(name: str) -> float:
    """Return a number in [0, 1), spread evenly over names."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / 2**64
