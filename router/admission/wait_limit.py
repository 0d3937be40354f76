"""Who would wait too long. Plain numbers; the clock is the caller's.

A queue serves a burst, and one that stands serves nobody: where more comes than can be served, as much is
served behind a short queue as behind a long one, only later. That is for whom late answers are no use, and
who says so, by `max_wait_s`. Then waiting up to that is all right until somebody has to be refused whom a
short queue would have served; from then on the queue is kept short, until none has met a longer one for
_CALM_S. (The standing queue is CoDel's, Nichols and Jacobson 2012; two limits, by whether a queue stands,
are from Maurer, Fail at Scale, 2015.)

Where nobody says so, who waits is served: by their own deadlines alone requests are refused.
"""

import math
from dataclasses import dataclass

from common.telemetry.logs import get_logger
from pdserve.errors import OverloadedError, Reason

# what a reader takes as an answer without a break (Nielsen 1993)
SHORT_WAIT_S = 1.0
# no longer with a larger limit: that is for who would rather wait than come again
_CALM_S = 10.0
_LEAST_RETRY_S = 0.1
# of the limit, for tenants that have had more than others; the rest is for those
_OVER_SHARE = 0.5
_log = get_logger()


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a request is predicted to meet."""

    wait_s: float  # until its prompt runs
    prefill_s: float
    answer_s: float  # from token 1 to its last, at the least
    num_ahead: int  # prompts that are to run before its own

    @property
    def first_token_s(self) -> float:
        """Until token 1."""
        return self.wait_s + self.prefill_s


class WaitLimit:
    """Owns whether the router is overloaded."""

    def __init__(self, max_wait_s: float | None) -> None:
        """`max_wait_s` is router.max_wait_s; None or 0: only deadlines count."""
        self._max_wait_s = max_wait_s or math.inf
        self._short_until_s = float("-inf")

    def check(
        self, forecast: Forecast, timeout_s: float | None, now_s: float, *, is_over_share: bool
    ) -> None:
        """Raise OverloadedError if a request would wait too long, or end after its deadline.

        One prompt ahead is no queue: a worker that runs a long one may still be given another. Who is refused
        for its share alone says nothing of the queue.
        """
        if timeout_s is not None:
            try:
                check_deadline(forecast, timeout_s)
            except OverloadedError as error:
                if forecast.wait_s - error.retry_after_s >= SHORT_WAIT_S:
                    self._shorten(now_s)
                raise
        if forecast.num_ahead <= 1:
            return
        wait_s = forecast.wait_s
        limit_s = self._limit_s(now_s) * (_OVER_SHARE if is_over_share else 1.0)
        if wait_s > limit_s:
            if wait_s > SHORT_WAIT_S and not is_over_share:
                self._shorten(now_s)
            message = f"prompts wait {wait_s:.2f} s before they run, more than {limit_s:.2f} s"
            raise _refusal(message, wait_s - limit_s, Reason.QUEUE_FULL)

    def _limit_s(self, now_s: float) -> float:
        is_short = now_s < self._short_until_s
        return min(self._max_wait_s, SHORT_WAIT_S) if is_short else self._max_wait_s

    def _shorten(self, now_s: float) -> None:
        """Somebody is refused whom a short queue would have served."""
        if math.isinf(self._max_wait_s):
            return  # the others would rather wait
        calm_s = min(self._max_wait_s, _CALM_S)
        if now_s >= self._short_until_s and self._max_wait_s > SHORT_WAIT_S:
            _log.warning("overloaded", max_wait_s=SHORT_WAIT_S, for_s=calm_s)
        self._short_until_s = now_s + calm_s


def check_deadline(forecast: Forecast, timeout_s: float) -> None:
    """Raise OverloadedError if a request would end after its deadline; it says by how much it waits too long.

    Where nobody is ahead nobody is to be made room for, and a part of an answer is better than none.
    """
    event, needed_s = "token 1 is", forecast.first_token_s
    if needed_s <= timeout_s and forecast.num_ahead:
        event, needed_s = "the last token is", needed_s + forecast.answer_s
    if needed_s > timeout_s:
        message = f"{event} expected in {needed_s:.2f} s, after the deadline, {timeout_s:.2f} s"
        raise _refusal(message, needed_s - timeout_s, Reason.DEADLINE_UNREACHABLE)


def _refusal(message: str, too_long_s: float, reason: Reason) -> OverloadedError:
    retry_s = max(too_long_s, _LEAST_RETRY_S)
    return OverloadedError(message, retry_after_s=retry_s, reason=reason)
