"""Limits on predicted waiting times. Plain numbers; the clock is the caller's.

A queue is useful in a burst. Under a lasting overload a long queue serves no more requests than a
short one, only later. `max_wait_s` is for operators to whom late answers are of no use:

1. Waits up to `max_wait_s` are allowed, until a request is refused that a short queue would have
   served.
2. From then on the limit is SHORT_WAIT_S for requests of its kind, until none of them has met a
   longer queue for _CALM_S. Other kinds may still run at once.

The standing queue is CoDel's (Nichols and Jacobson 2012). Two limits, by whether a queue stands,
are from Maurer, Fail at Scale (2015). Without `max_wait_s` only a request's own deadline refuses
it.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Kind(NamedTuple):
    """Requests that wait alike: by priority, and by length within a factor of two."""

    priority: int = 0
    num_bits: int = 0  # of the number of prompt tokens to compute

    @classmethod
    def of(cls, priority: int, num_tokens: int) -> "Kind":
        """Return the kind of a prompt with so many tokens to compute."""
        return cls(priority, num_tokens.bit_length())


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted times of a request, in seconds."""

    wait_s: float  # until the prompt runs
    prefill_s: float
    answer_s: float  # at least, from token 1 to the last one
    num_ahead: int  # prompts that run before
    kind: Kind = field(default_factory=Kind)

    @property
    def first_token_s(self) -> float:
        """Predicted seconds until token 1."""
        return self.wait_s + self.prefill_s


class WaitLimit:
    """Checks waiting times, and keeps the short limit for the kinds that are overloaded."""

    def __init__(self, max_wait_s: float | None) -> None:
        """Take router.max_wait_s; with None or 0 only deadlines count."""
        self._max_wait_s = max_wait_s or math.inf
        self._short_until_s: dict[Kind, float] = {}  # priorities and lengths are few

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
                    self._shorten(forecast.kind, now_s)
                raise
        if forecast.num_ahead <= 1:
            return
        wait_s = forecast.wait_s
        limit_s = self._limit_s(forecast.kind, now_s) * (_OVER_SHARE if is_over_share else 1.0)
        if wait_s > limit_s:
            if wait_s > SHORT_WAIT_S and not is_over_share:
                self._shorten(forecast.kind, now_s)
            message = f"prompts wait {wait_s:.2f} s before they run, more than {limit_s:.2f} s"
            raise _refusal(message, wait_s - limit_s, Reason.QUEUE_FULL)

    def _limit_s(self, kind: Kind, now_s: float) -> float:
        is_short = now_s < self._short_until_s.get(kind, -math.inf)
        return min(self._max_wait_s, SHORT_WAIT_S) if is_short else self._max_wait_s

    def _shorten(self, kind: Kind, now_s: float) -> None:
        """Keep a limit short for a while, after a refusal that a short queue would have avoided."""
        if math.isinf(self._max_wait_s):
            return  # without a limit, clients would rather wait
        calm_s = min(self._max_wait_s, _CALM_S)
        is_new = now_s >= self._short_until_s.get(kind, -math.inf)
        if is_new and self._max_wait_s > SHORT_WAIT_S:
            prompts = {"tokens_below": 2**kind.num_bits, "priority": kind.priority}
            _log.warning("overloaded", max_wait_s=SHORT_WAIT_S, for_s=calm_s, **prompts)
        self._short_until_s[kind] = now_s + calm_s


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
