"""The rate of arrivals. Plain numbers; the clock is the caller's."""

import math

_RATE_WINDOW_S = 10.0


class ArrivalRate:
    """Requests a second, over about the last _RATE_WINDOW_S: a count that decays exponentially."""

    def __init__(self) -> None:
        self._per_s = 0.0
        self._last_s = 0.0

    def per_s(self, now_s: float) -> float:
        """Return the rate of the arrivals so far, per second."""
        return self._per_s * math.exp(min((self._last_s - now_s) / _RATE_WINDOW_S, 0.0))

    def arrive(self, now_s: float) -> None:
        """Count an arrival."""
        self._per_s, self._last_s = self.per_s(now_s) + 1 / _RATE_WINDOW_S, now_s
