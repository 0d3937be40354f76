"""SamplingKernels (sampler.py) in torch operations, for any device."""

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.device_copy import to_device
from common.engine.sampling.noise import gumbel
from common.engine.sampling.options import Adjustments, Ragged, Truncation


def greedy_tokens(logits: torch.Tensor) -> tuple[list[int], list[bool]]:
    """Implement SamplingKernels.greedy_tokens."""
    tokens, finite = greedy(logits)
    return tokens.tolist(), finite.tolist()


def draw_tokens(
    logits: torch.Tensor, rows: list[int], temperatures: list[float], keys: list[int]
) -> list[int]:
    """Implement SamplingKernels.draw_tokens."""
    tokens: list[int] = draw(logits[rows], np.array(temperatures), keys).tolist()
    return tokens


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose as `greedy_tokens` does, and leave tokens int64 [n] and bool [n] on the device."""
    # one NaN or infinity makes the sum so; finite logits are far from overflowing it
    return logits.argmax(dim=-1), torch.isfinite(logits.sum(dim=-1, dtype=torch.float32))


def draw(logits: torch.Tensor, temperatures: NDArray[np.float64], keys: list[int]) -> torch.Tensor:
    """Draw as `draw_tokens` does for all rows [n, vocab]; leave int64 [n] on the device. Wait for nothing.

    A row that is not finite gives some token of the vocabulary.
    """
    scores = logits.double() / _to(logits.device, temperatures)[:, None]
    scores += gumbel(keys, logits.shape[-1], logits.device)
    return scores.argmax(dim=-1)


def adjust(logits: torch.Tensor, rows: list[int], adjustments: Adjustments) -> torch.Tensor:
    """Implement SamplingKernels.adjust."""
    device = logits.device
    out = logits[rows].float()
    at, ids, values = _entries(adjustments.biases, device)
    out[at, ids] += values
    at, ids, counts = _entries(adjustments.seen, device)
    seen, repetition = out[at, ids], _to(device, adjustments.repetition)[at]
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    presence, frequency = (
        _to(device, penalty)[at] for penalty in (adjustments.presence, adjustments.frequency)
    )
    out[at, ids] = seen - frequency * counts - presence * (counts > 0)
    return out


def truncate(logits: torch.Tensor, truncation: Truncation) -> None:
    """Implement SamplingKernels.truncate."""
    device = logits.device
    temperature, top_k, top_p, min_p = (
        _to(device, option)[:, None]
        for option in (
            truncation.temperature,
            truncation.top_k,
            truncation.top_p,
            truncation.min_p,
        )
    )
    ranked = logits.double().sort(dim=-1, descending=True).values
    last = torch.where(top_k > 0, top_k, ranked.shape[-1]).clamp(max=ranked.shape[-1]) - 1
    floor = ranked.gather(-1, last)
    weights = torch.softmax(ranked.masked_fill(ranked < floor, -torch.inf) / temperature, dim=-1)
    # a token is in the nucleus if those above it do not fill it; of equals the first one decides
    is_inside = weights.cumsum(dim=-1) - weights < top_p
    nucleus = ranked.gather(-1, is_inside.sum(dim=-1, keepdim=True).clamp(min=1) - 1)
    floor = torch.where(top_p < 1, torch.maximum(floor, nucleus), floor)
    floor = torch.maximum(floor, ranked[:, :1] + min_p.log() * temperature)
    logits.masked_fill_(logits < floor, -torch.inf)


def _entries(
    ragged: Ragged, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return row, token and value of each entry."""
    rows = np.repeat(np.arange(len(ragged.starts) - 1), np.diff(ragged.starts))
    return _to(device, rows), _to(device, ragged.ids), _to(device, ragged.values)


def _to(device: torch.device, array: NDArray[np.generic]) -> torch.Tensor:
    return to_device(array, device)
