"""Who has had more than a fair share lately. Plain numbers; the clock is the caller's."""

import math
from collections.abc import Callable

_WINDOW_S = 10.0


class RecentUse:
    """Prompt tokens let in for each tenant over about the last _WINDOW_S: counts that decay exponentially.

    A queue that is full of one tenant's prompts has no place for another's, in whatever order it is served;
    so who is over its share has to leave room for those who are not (`Dispatcher`).
    """

    def __init__(self, weight: Callable[[str], float]) -> None:
        """`weight` says how much of a share a tenant has; above 0."""
        self._weight = weight
        self._num_tokens: dict[str, float] = {}
        self._at_s = 0.0

    def add(self, tenant: str, num_tokens: int, now_s: float) -> None:
        """A prompt was let in."""
        self._decay(now_s)
        self._num_tokens[tenant] = self._num_tokens.get(tenant, 0.0) + num_tokens

    def is_over(self, tenant: str, now_s: float) -> bool:
        """Whether it has had more than its weight's part of what all tenants of late have had."""
        self._decay(now_s)
        weights = sum(map(self._weight, self._num_tokens.keys() | {tenant}))
        fair = sum(self._num_tokens.values()) * self._weight(tenant) / weights
        return len(self._num_tokens) > 1 and self._num_tokens.get(tenant, 0.0) > fair

    def _decay(self, now_s: float) -> None:
        factor = math.exp(min((self._at_s - now_s) / _WINDOW_S, 0.0))
        decayed = {name: tokens * factor for name, tokens in self._num_tokens.items()}
        self._num_tokens = {name: tokens for name, tokens in decayed.items() if tokens >= 1}
        self._at_s = now_s
