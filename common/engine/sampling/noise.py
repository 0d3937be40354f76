"""Noise of draws: a number for each token, a function of (seed, position, token id) alone.

A draw is the token with the largest logit / temperature + noise, where the noise is Gumbel's: so each token
comes with the probability of the softmax (the Gumbel-max trick, Maddison et al. 2014). Where logits change a
little, as on another kind of device, the drawn token changes only if two of them are that close. The inverse
of a cumulative distribution has a border at every token of the vocabulary instead.

Noise is counter-based (Salmon et al. 2011): no state goes from draw to draw. SplitMix64 (Steele, Lea, Flood
2014) makes a key of seed and position. A mixer of 32 bits (C. Wellons' "lowbias32") takes token ids through
both halves of the key.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.device_copy import to_device

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B  # the mixer's factors
_BITS = 52  # of a uniform number: with the half that is added, float64 holds it exactly
_WORD = (1 << 32) - 1
_MASK = (1 << 64) - 1


def noise_key(seed: int, position: int) -> int:
    """Return the key of the noise for the token at `position` of the whole sequence: 64 bits."""
    return _splitmix64(_splitmix64(seed & _MASK) ^ (position & _MASK))


def gumbel(keys: list[int], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Return the noise of every token, float64 [len(keys), vocab_size]; wait for nothing."""
    low, high = (to_device(half, device)[:, None] for half in _halves(keys))
    token_ids = torch.arange(vocab_size, device=device)
    bits = (_mixed(token_ids, low, high) << _BITS - 32) | (
        _mixed(token_ids, high, low) >> 64 - _BITS
    )
    uniform = (bits.double() + 0.5) * 2.0**-_BITS
    return (1 - uniform).log_().neg_().log_().neg_()


def _halves(keys: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    low, high = ([key >> shift & _WORD for key in keys] for shift in (0, 32))
    return np.array(low, np.int64), np.array(high, np.int64)


def _mixed(token_ids: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Mix 32 bits of each id with the key's; int64 in and out, where products wrap."""
    word = token_ids ^ low
    word = ((word ^ (word >> 16)) * _FIRST) & _WORD
    word = ((word ^ (word >> 15) ^ high) * _SECOND) & _WORD
    return word ^ (word >> 16)


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
