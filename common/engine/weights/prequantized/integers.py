"""Weights as small integers: a level less its group's zero point, times the group's scale."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Rows = Callable[[int, int], torch.Tensor]
"""Function that gives the plain rows of a weight from a first one up to another, float32."""


@dataclass(frozen=True, slots=True)
class GroupedIntegers:
    """Weight [N, K] whose numbers are (level - zero) * scale, exactly in float32.

    `group_of` names the group of each of the K columns; None: G groups of equal size, in order.
    """

    levels: Callable[[int, int], torch.Tensor]  # integers [n, K] of rows from a first up to another
    scales: torch.Tensor  # float32 [N, G]
    zeros: torch.Tensor  # float32 [N, G]
    group_of: torch.Tensor | None  # int64 [K]

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Return plain rows, float32 [last - first, K]."""
        numbers = self.levels(first, last).contiguous().float()
        scales, zeros = self.scales[first:last], self.zeros[first:last]
        if self.group_of is not None:
            return numbers.sub_(zeros[:, self.group_of]).mul_(scales[:, self.group_of])
        groups = numbers.view(len(numbers), scales.shape[1], -1)
        groups.sub_(zeros[..., None]).mul_(scales[..., None])
        return numbers


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the unsigned integers of 4 or 8 bits in int32 words [..., n], the lowest bits first, uint8."""
    numbers = words.contiguous().view(torch.uint8)  # little-endian, as safetensors is
    if bits == 8:
        return numbers
    return torch.stack((numbers & 15, numbers >> 4), dim=-1).flatten(-2)


def groups_in_order(num_columns: int, num_groups: int, group_size: int) -> torch.Tensor | None:
    """Return the group of each column, int64; None where all groups have one size."""
    if num_groups == 1 or num_groups * group_size == num_columns:
        return None
    return torch.arange(num_columns) // group_size
