"""Expected length of answers, learnt from those that ended. Plain numbers."""

from bisect import bisect_right, insort
from collections import deque

_WINDOW = 256
_MIN_SAMPLES = 16
_QUANTILE = 0.8
_PRIOR_TOKENS = 256


class OutputLengths:
    """Running quantile of the output lengths of requests with about the same `max_tokens`.

    Admission by `max_tokens` wastes memory, since few requests use it up; admission by the prompt alone
    ends in preemption. The lengths of similar requests lie between (Past-Future scheduler, Gong et al.
    2025). Requests are similar if their `max_tokens` have the same power of two.
    """

    def __init__(self, prior_tokens: int = _PRIOR_TOKENS) -> None:
        """Expect `prior_tokens` as long as too few requests have ended."""
        self._prior_tokens = prior_tokens
        self._recent: dict[int, deque[int]] = {}
        self._sorted: dict[int, list[int]] = {}

    def observe(self, max_tokens: int, num_tokens: int) -> None:
        """Note that a request ended with `num_tokens` of output."""
        kind = max_tokens.bit_length()
        recent, ordered = self._recent.setdefault(kind, deque()), self._sorted.setdefault(kind, [])
        recent.append(num_tokens)
        insort(ordered, num_tokens)
        if len(recent) > _WINDOW:
            ordered.remove(recent.popleft())

    def expect(self, max_tokens: int, num_so_far: int) -> int:
        """Return the expected length of an answer: the quantile of those that got as far as `num_so_far`.

        The result is more than `num_so_far` and at most `max_tokens`.
        """
        ordered = self._sorted.get(max_tokens.bit_length(), ())
        start = bisect_right(ordered, num_so_far)
        if len(ordered) < _MIN_SAMPLES:
            expected = self._prior_tokens
        elif start == len(ordered):  # longer than all known: half as long again
            expected = num_so_far + num_so_far // 2
        else:
            expected = ordered[start + int(_QUANTILE * (len(ordered) - start))]
        return min(max(expected, num_so_far + 1), max_tokens)
