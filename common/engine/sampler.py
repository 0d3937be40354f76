"""From logits to tokens: greedy or temperature, with counter-based random numbers.

A draw is a function of (seed, position) alone, so a request gets the same tokens in any batch, on any
worker, before and after preemption.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch

from common.engine.sequence import Sequence

_MASK = (1 << 64) - 1


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
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    greedy = logits.argmax(dim=-1).tolist()
    samples = []
    for row, seq in enumerate(sequences):
        token_id = greedy[row]
        if finite[row] and seq.sampling.temperature > 0:
            draw = uniform(seq.sampling.seed, len(seq.token_ids))
            token_id = _draw_token(logits[row], seq.sampling.temperature, draw)
        samples.append(Sample(token_id, finite[row]))
    return samples


def _draw_token(logits: torch.Tensor, temperature: float, draw: float) -> int:
    """Inverse of the cumulative distribution at `draw`; float64, so that the tail is not lost."""
    scaled = logits.double() / temperature
    cumulative = torch.softmax(scaled, dim=-1).cumsum(dim=-1)
    target = draw * cumulative[-1]
    index = int(torch.searchsorted(cumulative, target, right=True))
    last: int = logits.shape[-1] - 1
    return min(index, last)


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
