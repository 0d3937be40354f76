"""Weights as small integers: each row in groups of 32 numbers, with a float16 scale a group.

The formats are those of llama.cpp (ggml-quants.c), so that files of theirs keep their numbers:

- int8 (Q8_0): levels -127 to 127; the scale is the group's largest absolute value / 127;
- int4 (Q4_0): levels -8 to 7; the scale puts the group's largest number at -8, whatever its sign.

A number is scale * level, computed in float32, where that product is exact.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Format = Literal["int8", "int4"]

HEAD_FORMAT: Format = "int8"  # whatever the other weights are: the head decides between tokens
GROUP = 32  # numbers of a row that share a scale
_CHUNK_NUMBERS = 1 << 20  # as many at a time are held in float32


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Weight [N, K] as levels and scales."""

    levels: torch.Tensor  # int8 [N, K]
    scales: torch.Tensor  # float16 [N, K / GROUP]
    format: Format

    def dequantized(self) -> torch.Tensor:
        """Return the numbers, float32 [N, K]."""
        groups = self.levels.unflatten(1, (-1, GROUP)).float()
        return (groups * self.scales.float().unsqueeze(-1)).flatten(1)


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
        lowest, highest = -127, 127
        wanted = groups.abs().amax(-1, keepdim=True) / highest
    else:
        lowest, highest = -8, 7
        at = groups.abs().argmax(-1, keepdim=True)
        wanted = groups.gather(-1, at) / lowest
    scales = wanted.half()
    # by the scale as it is stored; a group of zeros has the scale 0, and any level means 0 there
    inverse = torch.where(scales == 0, 0.0, 1 / scales.float())
    levels = (groups * inverse).round_().clamp_(lowest, highest).nan_to_num_(0.0)
    return levels.to(torch.int8).flatten(1), scales.squeeze(-1)
