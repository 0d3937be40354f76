"""Synthetic requests with the summary statistics of a real trace, to use without the trace."""

import bisect
from dataclasses import dataclass

import numpy as np

_SHARES = (0.0, 0.1, 0.5, 0.9, 0.99)
_SEED = 0


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One unscaled request of a trace; prompts with the same first block ids share a prefix."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Published statistics of a trace: lengths at the shares 0, 10, 50, 90 and 99 %."""

    num_requests: int
    rate_per_s: float
    arrival_cv: float  # standard deviation of the gaps over their mean
    inputs: tuple[int, int, int, int, int]
    outputs: tuple[int, int, int, int, int]
    block_tokens: int = 1
    shared_blocks: float = 0.0  # share of the blocks that an earlier prompt began with


def synthetic(summary: Summary) -> list[TracedRequest]:
    """Return a fixed list of requests for these statistics.

    Gaps have a Gamma distribution of that mean and variation. Lengths are log-linear between the
    shares, none beyond the last.
    """
    rng = np.random.default_rng(_SEED)
    count, shape = summary.num_requests, summary.arrival_cv**-2
    gaps = rng.gamma(shape, 1 / (shape * summary.rate_per_s), count)
    inputs = _lengths(rng.random(count), summary.inputs)
    outputs = _lengths(rng.random(count), summary.outputs)
    blocks = _Blocks(summary, rng)
    return [
        TracedRequest(float(arrival_s), input_tokens, output_tokens, blocks.of_prompt(input_tokens))
        for arrival_s, input_tokens, output_tokens in zip(
            np.cumsum(gaps) - gaps[0], inputs, outputs, strict=True
        )
    ]


def _lengths(uniform: np.ndarray, at_shares: tuple[int, ...]) -> list[int]:
    lengths = np.exp(np.interp(uniform, _SHARES, np.log(at_shares)))
    rounded: list[int] = np.rint(lengths).astype(int).tolist()
    return rounded


class _Blocks:
    """Source of block ids: starts prompts like earlier ones, for the required share of blocks."""

    def __init__(self, summary: Summary, rng: np.random.Generator) -> None:
        self._summary = summary
        self._rng = rng
        self._earlier: list[tuple[int, ...]] = []  # by length
        self._next_id = 0
        self._num_due = 0.0

    def of_prompt(self, input_tokens: int) -> tuple[int, ...]:
        """Return the ids of a prompt's blocks; none if the trace shares nothing."""
        if not self._summary.shared_blocks:
            return ()
        count = -(-input_tokens // self._summary.block_tokens)
        self._num_due += count * self._summary.shared_blocks
        shared = self._earlier_prefix(min(count, int(self._num_due)))
        self._num_due -= len(shared)
        num_new = count - len(shared)
        ids = (*shared, *range(self._next_id, self._next_id + num_new))
        self._next_id += num_new
        bisect.insort(self._earlier, ids, key=len)
        return ids

    def _earlier_prefix(self, length: int) -> tuple[int, ...]:
        first = bisect.bisect_left(self._earlier, length, key=len)
        if first == len(self._earlier):
            return ()
        return self._earlier[int(self._rng.integers(first, len(self._earlier)))][:length]
