"""From logits to tokens: greedy or temperature, with counter-based random numbers.

A draw is a function of (seed, position) alone, so a request gets the same tokens in any batch, on any
worker, before and after preemption.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch

from common.engine.sequence import Sequence

_MASK = (1 << 64) - 1
_COLDEST = 1e-6  # greedy in effect; the inverse of a much lower temperature overflows float32


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled token; `is_finite` is False when the logits held NaN or infinity (token meaningless)."""

    token_id: int
    is_finite: bool = True


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1): SplitMix64 (Steele, Lea, Flood 2014) of the seed, then of the position."""
    return (_splitmix64(_splitmix64(seed & _MASK) ^ (position & _MASK)) >> 11) * 2.0**-53


def sample(logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> list[Sample]:
    """Choose one token for each row of `logits` [n, vocab]; row i belongs to `sequences[i]`.

    The position that seeds a draw is the index the new token will have in the whole sequence.
    """
    greedy, draw = _kernels(logits.device)
    tokens, finite = greedy(logits)
    warm = [r for r, seq in enumerate(sequences) if seq.sampling.temperature > 0 and finite[r]]
    if warm:
        temperatures = [max(sequences[r].sampling.temperature, _COLDEST) for r in warm]
        drawn = [uniform(sequences[r].sampling.seed, len(sequences[r].token_ids)) for r in warm]
        for row, token in zip(warm, draw(logits, warm, temperatures, drawn), strict=True):
            tokens[row] = token
    return [Sample(token, is_finite) for token, is_finite in zip(tokens, finite, strict=True)]


Greedy = Callable[[torch.Tensor], tuple[list[int], list[bool]]]
Draw = Callable[[torch.Tensor, list[int], list[float], list[float]], list[int]]


def _kernels(device: torch.device) -> tuple[Greedy, Draw]:
    if device.type != "cpu":
        return greedy_tokens, draw_tokens
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu import sampling

    return sampling.greedy_tokens, sampling.draw_tokens


def greedy_tokens(logits: torch.Tensor) -> tuple[list[int], list[bool]]:
    """Each row's most likely token, and whether all its logits are finite."""
    # one NaN or infinity makes the sum so; finite logits are far from overflowing it
    finite = torch.isfinite(logits.sum(dim=-1, dtype=torch.float32))
    return logits.argmax(dim=-1).tolist(), finite.tolist()


def draw_tokens(
    logits: torch.Tensor, rows: list[int], temperatures: list[float], draws: list[float]
) -> list[int]:
    """Inverse of each row's cumulative softmax(logits / temperature) at `draws`.

    In float64, so that the tail of a large vocabulary is not lost.
    """
    column = logits.new_tensor(temperatures, dtype=torch.float64)[:, None]
    cumulative = torch.softmax(logits[rows].double() / column, dim=-1).cumsum(dim=-1)
    targets = logits.new_tensor(draws, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    tokens: list[int] = index.clamp(max=logits.shape[-1] - 1).tolist()
    return tokens


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
