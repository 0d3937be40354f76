"""When refused requests should come again. Plain numbers; the clock is the caller's."""

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b

from router.admission.arrival_rate import ArrivalRate

MAX_BACKLOG_S = 30.0
_LEAST_RATE_PER_S = 1.0


@dataclass(slots=True)
class _Line:
    """Those who were refused, in the order in which they should come again."""

    accepted: ArrivalRate = field(default_factory=ArrivalRate)
    until_s: float = float("-inf")  # when the last of them is due


class RetryTimes:
    """Spreads retries, so that about as many come as are let in, and not all at once.

    Each refusal takes the next place in its tenant's line, which moves as fast as that tenant's requests were
    let in lately, and is MAX_BACKLOG_S long at most: who is refused often delays nobody else. The jitter,
    half of the line either way, keeps those apart who were refused together when it was full. It is by the
    request's name alone, so that it can be foretold.
    """

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)

    def note_accepted(self, tenant: str, now_s: float) -> None:
        """One of the tenant's was let in."""
        self._lines[tenant].accepted.arrive(now_s)

    def delay_s(self, tenant: str, request: str, least_s: float, now_s: float) -> float:
        """After how long a request that is refused now should come again: `least_s` and its place in line."""
        self._lines[tenant].until_s = self._next_s(tenant, now_s)
        return least_s + (self._lines[tenant].until_s - now_s) * (0.5 + _fraction(request))

    def outlook_s(self, tenant: str, request: str, least_s: float, now_s: float) -> float:
        """What `delay_s` would say, for a request that takes no place."""
        return least_s + (self._next_s(tenant, now_s) - now_s) * (0.5 + _fraction(request))

    def _next_s(self, tenant: str, now_s: float) -> float:
        """When the next place of the line is due."""
        line = self._lines[tenant]
        gap_s = 1 / max(line.accepted.per_s(now_s), _LEAST_RATE_PER_S)
        return min(max(line.until_s, now_s) + gap_s, now_s + MAX_BACKLOG_S)


def _fraction(name: str) -> float:
    """In [0, 1), evenly over names."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / 2**64
