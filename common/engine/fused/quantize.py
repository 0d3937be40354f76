"""Weights as small integers: each row in groups of 32 numbers, with a float16 scale a group.

The formats are those of llama.cpp (ggml-quants.c):

- int8 (Q8_0): levels -127 to 127; the scale is the group's largest absolute value / 127. A number is
  scale * level, exactly in float32.
- int4 (Q4_1): levels -8 to 7 from the group's smallest number to its largest. A number is
  scale * level + offset. The offset, a float16 too, is the number at level 0.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Format = Literal["int8", "int4"]

HEAD_FORMAT: Format = "int8"  # whatever the other weights are: the head decides between tokens
GROUP = 32  # numbers of a row that share a scale
_INT8 = 127
_INT4_LOWEST, _INT4_HIGHEST = -8, 7
_CHUNK_NUMBERS = 1 << 20  # as many at a time are held in float32


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Weight [N, K] as levels and scales."""

    levels: torch.Tensor  # int8 [N, K]
    scales: torch.Tensor  # float16 [N, K / GROUP, 1], or with offsets behind them [N, K / GROUP, 2]
    format: Format

    def dequantized(self) -> torch.Tensor:
        """Return the numbers, float32 [N, K]."""
        groups = self.levels.unflatten(1, (-1, GROUP)).float()
        scales, *offsets = self.scales.float().split(1, dim=-1)
        return sum(offsets, groups * scales).flatten(1)


def can_quantize(weight: torch.Tensor) -> bool:
    """Return True if the rows of a weight [N, K] split into whole groups of floats."""
    is_whole: bool = weight.shape[1] % GROUP == 0
    return is_whole and weight.is_floating_point()


def quantize(weight: torch.Tensor, form: Format) -> QuantizedWeight:
    """Round a weight [N, K] of any float dtype to the nearest levels, each group by itself.

    A group with a number that is not finite gets a scale that is not, so that its sums show it.
    """
    num_rows = max(_CHUNK_NUMBERS // weight.shape[1], 1)
    parts = [_quantize_rows(rows.float(), form) for rows in weight.split(num_rows)]
    levels, scales = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return QuantizedWeight(levels, scales, form)


def _quantize_rows(rows: torch.Tensor, form: Format) -> tuple[torch.Tensor, torch.Tensor]:
    groups = rows.unflatten(1, (-1, GROUP))
    if form == "int8":
        scales = (groups.abs().amax(-1, keepdim=True) / _INT8).half()
        return _levels(groups, scales, -_INT8, _INT8), scales
    lowest, highest = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = ((highest - lowest) / (_INT4_HIGHEST - _INT4_LOWEST)).half()
    offsets = (lowest - _INT4_LOWEST * scales.float()).half()
    levels = _levels(groups - offsets.float(), scales, _INT4_LOWEST, _INT4_HIGHEST)
    return levels, torch.cat((scales, offsets), dim=-1)


def _levels(groups: torch.Tensor, scales: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    """Return the nearest levels [N, K] by scales as they are stored; where a scale is 0 any level will do."""
    inverse = torch.where(scales == 0, 0.0, 1 / scales.float())
    levels = (groups * inverse).round_().clamp_(lowest, highest).nan_to_num_(0.0)
    return levels.to(torch.int8).flatten(1)
