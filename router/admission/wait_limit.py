"""Limits on predicted waiting times. Plain numbers; the clock is the caller's.

A queue is useful in a burst. Under a lasting overload a long queue serves no more requests than a
short one, only later. `max_wait_s` is for operators to whom late answers are of no use:

1. Waits up to `max_wait_s` are allowed, until a request is refused that a short queue would have
   served.
2. From then on the limit is SHORT_WAIT_S, until no request has met a longer queue for _CALM_S.

The standing queue is CoDel's (Nichols and Jacobson 2012). Two limits, by whether a queue stands,
are from Maurer, Fail at Scale (2015). Without `max_wait_s` only a request's own deadline refuses
it.
"""

import math
from dataclasses import dataclass

from common.telemetry.logs import get_logger
from pdserve.errors import OverloadedError, Reason

# longest wait that a reader takes as no break (Nielsen 1993)
SHORT_WAIT_S = 1.0
# not longer with a larger limit: clients of such a router would rather wait than come again
_CALM_S = 10.0
_LEAST_RETRY_S = 0.1
# part of the limit for tenants over their share; the rest is for the others
_OVER_SHARE = 0.5
_log = get_logger()


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted times of a request, in seconds."""

    wait_s: float  # until the prompt runs
    prefill_s: float
    answer_s: float  # at least, from token 1 to the last one
    num_ahead: int  # prompts that run before

    @property
    def first_token_s(self) -> float:
        """Predicted seconds until token 1."""
        return self.wait_s + self.prefill_s


class WaitLimit:
    """Checks waiting times, and keeps the short limit while the router is overloaded."""

    def __init__(self, max_wait_s: float | None) -> None:
        """Take router.max_wait_s; with None or 0 only deadlines count."""
        self._max_wait_s = max_wait_s or math.inf
        self._short_until_s = float("-inf")

    def check(
        self, forecast: Forecast, timeout_s: float | None, now_s: float, *, is_over_share: bool
    ) -> None:
        """Raise OverloadedError if a request would wait too long, or end after its deadline.

        One prompt ahead is no queue: a worker that runs a long prompt may still be given another. A
        refusal for a tenant's share alone does not shorten the limit.
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
        """Keep the limit short for a while, after a refusal that a short queue would have avoided."""
        if math.isinf(self._max_wait_s):
            return  # without a limit, clients would rather wait
        calm_s = min(self._max_wait_s, _CALM_S)
        if now_s >= self._short_until_s and self._max_wait_s > SHORT_WAIT_S:
            _log.warning("overloaded", max_wait_s=SHORT_WAIT_S, for_s=calm_s)
        self._short_until_s = now_s + calm_s


def check_deadline(forecast: Forecast, timeout_s: float) -> None:
    """Raise OverloadedError if a request would end after its deadline;

    `retry_after_s` is the excess.

    With no prompt ahead only token 1 counts: a part of an answer is better than none.
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
