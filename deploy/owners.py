"""Owners of a deployment: the `pdserve serve` processes that keep it. It ends with the last of them.

Plain arithmetic: the caller gives the time, in seconds of a monotonic clock.
"""

OWNER_GONE_AFTER_S = 10.0  # an owner that was killed asks for news no more


class Owners:
    """Owners by the time of their last question."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}
        self._is_ending = False

    def hear(self, owner: str, now_s: float) -> None:
        """Note that an owner has asked for news."""
        self._heard_s[owner] = now_s

    def others(self, owner: str, now_s: float) -> int:
        """Return how many owners there are beside this one."""
        return sum(other != owner for other in self._alive(now_s))

    def leave(self, owner: str) -> None:
        """Forget an owner."""
        self._heard_s.pop(owner, None)

    def must_end(self, left_s: float, now_s: float) -> bool | None:
        """Return whether an owner that left at `left_s` must end the deployment; only one must.

        None: another one may have been killed. It has to be heard again, or be silent for long enough.
        """
        alive = self._alive(now_s)
        if not alive:
            was_ending, self._is_ending = self._is_ending, True
            return not was_ending
        return False if any(self._heard_s[other] > left_s for other in alive) else None

    def _alive(self, now_s: float) -> list[str]:
        return [o for o, heard_s in self._heard_s.items() if now_s - heard_s <= OWNER_GONE_AFTER_S]
