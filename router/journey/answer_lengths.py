"""Lengths of answers. Plain numbers."""

from bisect import bisect_left, insort
from collections import deque

from router.intake.job import Job

_PRIOR_TOKENS = 256.0
_SMOOTHING = 0.05
_NUM_KEPT = 64
_FEWEST = 16
_LOW = 0.1


class AnswerLengths:
    """Learns from all answers alike: a moving mean, and a low quantile of the last _NUM_KEPT."""

    def __init__(self) -> None:
        self._mean = _PRIOR_TOKENS
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []

    def note(self, num_tokens: int) -> None:
        """Learn the length of an answer."""
        self._mean += _SMOOTHING * (num_tokens - self._mean)
        self._latest.append(num_tokens)
        insort(self._sorted, num_tokens)
        if len(self._latest) > _NUM_KEPT:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def expected(self, max_tokens: int) -> int:
        """Return the mean number of tokens of an answer with this limit."""
        return min(max(round(self._mean), 1), max_tokens)

    def least(self, job: Job) -> int:
        """Return a number of tokens that nine in ten answers reach; 1 while too few are known."""
        sampling = job.sampling
        if sampling.ignore_eos and not job.stop and not sampling.stop_token_ids:
            return sampling.max_tokens
        is_known = len(self._sorted) >= _FEWEST
        low = self._sorted[int(_LOW * len(self._sorted))] if is_known else 1
        return min(max(low, sampling.min_tokens, 1), sampling.max_tokens)
