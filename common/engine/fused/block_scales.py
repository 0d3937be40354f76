"""Scales of blocks of 256 numbers: small integers, one for each group, times a float16 of the block.

So do GGUF's K types store them. A product of both has 19 bits at most, so float32 holds it exactly.
"""

import torch

from common.engine.cpu.scale_blocks import BLOCK, HALF_ROWS


def in_bytes(of_blocks: torch.Tensor, of_groups: torch.Tensor) -> torch.Tensor:
    """Lay float16 of blocks [N, B, n] before the int8 of their groups [N, B, G, n]: int8 [N, B * (2 + G), n].

    n is 1 for scales alone, 2 with offsets behind them. The bytes of n float16 take the first two entries.
    """
    halves = of_blocks.contiguous().view(torch.int8)
    first = halves.reshape(*of_blocks.shape[:2], HALF_ROWS, of_blocks.shape[2])
    return torch.cat((first, of_groups), dim=2).flatten(1, 2)


def parts_of(scales: torch.Tensor, num_blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what in_bytes was given."""
    by_block = scales.unflatten(1, (num_blocks, -1))
    halves = by_block[:, :, :HALF_ROWS].flatten(2).contiguous().view(torch.float16)
    return halves, by_block[:, :, HALF_ROWS:]


def widened(scales: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """Return the scales that in_bytes stands for, float32 [N, B * G, n]."""
    of_blocks, of_groups = parts_of(scales, num_blocks)
    return (of_groups.float() * of_blocks.float()[:, :, None]).flatten(1, 2)


def nearest(numbers: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """Round scales, and perhaps offsets, float32 [N, B * G, n] to the nearest of in_bytes."""
    by_block = numbers.unflatten(1, (num_blocks, -1))
    of_blocks = (by_block.abs().amax(2) / 127).half()
    factor = torch.where(of_blocks == 0, 0.0, 1 / of_blocks.float())
    of_groups = (by_block * factor[:, :, None]).round().clamp(-127, 127).nan_to_num(0.0)
    return in_bytes(of_blocks, of_groups.to(torch.int8))


def num_groups(scales: torch.Tensor, depth: int) -> int:
    """Return the groups of rows of `depth` numbers, by the scales of a weight or of its panels."""
    is_by_blocks = scales.dtype == torch.int8
    return len(scales[0]) - (HALF_ROWS * (depth // BLOCK) if is_by_blocks else 0)
