"""SamplingKernels (sampling/sampler.py) on tensors in host memory."""

import numpy as np
import torch

from common.engine.cpu import sampling_kernel, truncation_kernel
from common.engine.cpu.arrays import as_array
from common.engine.sampling.options import Adjustments, Truncation


def greedy_tokens(logits: torch.Tensor) -> tuple[list[int], list[bool]]:
    """Implement SamplingKernels.greedy_tokens."""
    num_rows = logits.shape[0]
    tokens, finite = np.empty(num_rows, np.int64), np.empty(num_rows, np.bool_)
    sampling_kernel.greedy_tokens(as_array(logits), tokens, finite)
    return tokens.tolist(), finite.tolist()


def draw_tokens(
    logits: torch.Tensor, rows: list[int], temperatures: list[float], keys: list[int]
) -> list[int]:
    """Implement SamplingKernels.draw_tokens."""
    tokens, index = np.zeros(len(logits), np.int64), np.array(rows)
    sampling_kernel.draw_tokens(
        as_array(logits), index, np.array(temperatures), np.array(keys, np.uint64), tokens
    )
    drawn: list[int] = tokens[index].tolist()
    return drawn


def adjust(logits: torch.Tensor, rows: list[int], adjustments: Adjustments) -> torch.Tensor:
    """Implement SamplingKernels.adjust."""
    out = torch.empty(len(rows), logits.shape[-1])
    biases, seen = adjustments.biases, adjustments.seen
    sampling_kernel.adjust(
        as_array(logits),
        np.array(rows),
        (biases.starts, biases.ids, biases.values),
        (seen.starts, seen.ids, seen.values),
        (adjustments.repetition, adjustments.presence, adjustments.frequency),
        out.numpy(),
    )
    return out


def truncate(logits: torch.Tensor, truncation: Truncation) -> None:
    """Implement SamplingKernels.truncate."""
    truncation_kernel.truncate(
        logits.numpy(),
        truncation.temperature,
        truncation.top_k,
        truncation.top_p,
        truncation.min_p,
    )
