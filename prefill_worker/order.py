"""Order in which prompts run. Plain numbers; the clock is the caller's."""

import math
from collections.abc import Callable

from common.engine.sequence import Sequence

Rank = tuple[int, int, float]
_URGENT_S = 1.0
_GIVEN_UP_FOR = 4.0  # targets


class PrefillOrder:
    """Ranks prompts by priority, then near deadlines, then shortest remaining time first with ageing.

    Short prompts before long ones halve the mean wait, but alone they would starve the long ones. So a
    prompt's remaining time is lowered by the time that it has waited: it falls behind newcomers for no
    longer than it would itself run. A prompt that can no longer meet its deadline goes behind all that can.
    So does a prompt that can no longer meet the TTFT target, until it has waited for four times the target.
    """

    def __init__(
        self, seconds_left: Callable[[Sequence], float], ttft_target_s: float | None = None
    ) -> None:
        """Rank by `seconds_left`, which predicts the time that a prompt still takes, alone."""
        self._seconds_left = seconds_left
        self._ttft_target_s = ttft_target_s

    def rank(self, seq: Sequence, now_s: float) -> Rank:
        """Return a prompt's rank, lowest first; `now_s` is on the clock of `seq.timeline.arrival_s`."""
        remaining_s = self._seconds_left(seq)
        waited_s = now_s - seq.timeline.arrival_s + seq.request.waited_s
        timeout_s = seq.request.timeout_s
        aged_s = remaining_s - waited_s
        slack_s = math.inf if timeout_s is None else timeout_s - waited_s - remaining_s
        if 0 <= slack_s < _URGENT_S:
            return seq.request.priority, 0, slack_s
        is_late = slack_s < 0 or self._misses_target(waited_s, remaining_s)
        return seq.request.priority, 2 if is_late else 1, aged_s

    def _misses_target(self, waited_s: float, remaining_s: float) -> bool:
        target_s = self._ttft_target_s
        if target_s is None or waited_s > _GIVEN_UP_FOR * target_s:
            return False
        return waited_s + remaining_s > target_s
