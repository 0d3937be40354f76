"""Whose prompt runs first. Plain numbers; the clock is the caller's."""

from collections.abc import Callable

from common.engine.sequence import Sequence

Rank = tuple[int, int, float]
_URGENT_S = 1.0


class PrefillOrder:
    """By priority; then those whose deadline is near; then shortest remaining time first, with ageing.

    Short prompts before long ones halve the mean wait, but alone they would starve the long ones. So a
    prompt's remaining time is lowered by the time that it has waited: it falls behind newcomers for no longer
    than it would itself run. A prompt that can no longer meet its deadline goes behind all that can.
    """

    def __init__(self, seconds_left: Callable[[Sequence], float]) -> None:
        """`seconds_left` predicts the time that a prompt still takes, alone."""
        self._seconds_left = seconds_left

    def rank(self, seq: Sequence, now_s: float) -> Rank:
        """The lowest goes first; `now_s` is on the clock of `seq.timeline.arrival_s`."""
        remaining_s = self._seconds_left(seq)
        waited_s = now_s - seq.timeline.arrival_s
        timeout_s = seq.request.timeout_s
        aged_s = remaining_s - waited_s
        if timeout_s is None:
            return seq.request.priority, 1, aged_s
        slack_s = timeout_s - waited_s - remaining_s
        if slack_s < 0:
            return seq.request.priority, 2, aged_s
        return seq.request.priority, *((0, slack_s) if slack_s < _URGENT_S else (1, aged_s))
