"""Recent use of the router by tenant. Plain numbers; the clock is the caller's."""

import math
from collections.abc import Callable

_WINDOW_S = 10.0


class RecentUse:
    """Prompt tokens admitted lately for each tenant: counts that decay over about _WINDOW_S.

    A queue full of one tenant's prompts has no place for another's, in whatever order it is served.
    So a tenant over its share has to leave room for the others: see `is_over_share` in
    wait_limit.py.
    """

    def __init__(self, weight: Callable[[str], float]) -> None:
        """Take `weight`, which returns a tenant's weight, above 0."""
        self._weight = weight
        self._num_tokens: dict[str, float] = {}
        self._at_s = 0.0

    def add(self, tenant: str, num_tokens: int, now_s: float) -> None:
        """Count an admitted prompt."""
        self._decay(now_s)
        self._num_tokens[tenant] = self._num_tokens.get(tenant, 0.0) + num_tokens

    def is_over(self, tenant: str, now_s: float) -> bool:
        """Return True if a tenant has had more of the recent tokens than its weight's part."""
        self._decay(now_s)
        weights = sum(map(self._weight, self._num_tokens.keys() | {tenant}))
        fair = sum(self._num_tokens.values()) * self._weight(tenant) / weights
        return len(self._num_tokens) > 1 and self._num_tokens.get(tenant, 0.0) > fair

    def _decay(self, now_s: float) -> None:
        factor = math.exp(min((self._at_s - now_s) / _WINDOW_S, 0.0))
        decayed = {name: tokens * factor for name, tokens in self._num_tokens.items()}
        self._num_tokens = {name: tokens for name, tokens in decayed.items() if tokens >= 1}
        self._at_s = now_s
