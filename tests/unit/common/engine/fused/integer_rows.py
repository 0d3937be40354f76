"""Rows as integers, in torch: what products with panels of small integers multiply on some CPUs."""

import torch

from common.engine.cpu.integer_rows import LIMIT
from common.engine.cpu.quantized_levels import GROUP
from common.engine.fused.quantized_panels import is_for_integers


def multiplied(x: torch.Tensor, num_scales: int | None = None) -> torch.Tensor:
    """Return the numbers that rows [T, K] are multiplied as: x itself where the CPU widens levels.

    `num_scales` are those of a row of the weight; unset, one for each GROUP.
    """
    depth = x.shape[1]
    if depth % GROUP or not is_for_integers(depth, num_scales or depth // GROUP):
        return x
    groups = x.unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(-1, keepdim=True)
    factor = torch.where(largest == 0, 0.0, LIMIT / largest)
    scale = largest * torch.tensor(1 / LIMIT, dtype=torch.float32)
    return ((groups * factor).round() * scale).flatten(1)
