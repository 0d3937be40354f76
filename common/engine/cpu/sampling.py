"""The sampler's kernels on tensors in host memory; same contracts as sampler.py's torch forms."""

import numpy as np
import torch

from common.engine.cpu import sampling_kernel
from common.engine.cpu.arrays import as_array


def greedy_tokens(logits: torch.Tensor) -> tuple[list[int], list[bool]]:
    """Each row's most likely token, and whether all its logits are finite."""
    tokens, finite = np.zeros(len(logits), np.int64), np.zeros(len(logits), np.bool_)
    sampling_kernel.greedy_tokens(as_array(logits), tokens, finite)
    return tokens.tolist(), finite.tolist()


def draw_tokens(
    logits: torch.Tensor, rows: list[int], temperatures: list[float], draws: list[float]
) -> list[int]:
    """Inverse of each listed row's cumulative softmax(logits / temperature) at `draws`."""
    tokens, index = np.zeros(len(logits), np.int64), np.array(rows)
    sampling_kernel.draw_tokens(
        as_array(logits), index, np.array(temperatures), np.array(draws), tokens
    )
    drawn: list[int] = tokens[index].tolist()
    return drawn
