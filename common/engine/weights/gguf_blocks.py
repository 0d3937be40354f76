"""Blocks of GGUF's quantized types as levels and scales, with no rounding (ggml-common.h, ggml-quants.c).

A row of a tensor is blocks of 32 or 256 numbers, one behind the other. float16 scales stay as they are. So do
those of K types: a block's float16 with a small integer for each group (block_scales.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from common.engine.cpu.scale_blocks import BLOCK
from common.engine.fused.block_scales import in_bytes
from common.engine.fused.held import HeldWeight
from common.engine.fused.quantize import PanelForm, QuantizedWeight

_Unpacked = tuple[torch.Tensor, torch.Tensor]  # levels [n, numbers], scales [n, entries, 1 or 2]


@dataclass(frozen=True, slots=True)
class BlockType:
    """Type of blocks that a panel holds exactly."""

    numbers: int  # of a block
    num_bytes: int
    group: int  # numbers that share a scale
    form: PanelForm
    unpack: Callable[[torch.Tensor], _Unpacked]  # of blocks uint8 [n, num_bytes]

    def row_bytes(self, num_columns: int) -> int:
        """Return the bytes of a row of so many numbers."""
        return num_columns // self.numbers * self.num_bytes

    def panel_bytes(self, num_numbers: int) -> int:
        """Return the bytes that so many numbers take in panels: levels, scales and offsets."""
        num_groups = num_numbers // self.group
        of_scales = 2 * num_groups
        if self.form.scales == "int8":
            of_scales = num_groups + 2 * (num_numbers // BLOCK)
        with_offsets = 2 if self.form.has_offsets else 1
        return num_numbers * self.form.bits // 8 + of_scales * with_offsets


class GgufWeight(HeldWeight):
    """Weight [N, K] as blocks of one type; `order` names the file's row of each of the model's rows."""

    def __init__(
        self, blocks: torch.Tensor, kind: str, num_columns: int, order: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.blocks = torch.nn.Parameter(blocks, requires_grad=False)  # uint8 [N, bytes of a row]
        self._type = BLOCK_TYPES[kind]
        self._order = order
        self.num_rows, self.num_columns = len(blocks), num_columns
        self.form, self.group = self._type.form, self._type.group

    def rows(self, numbers: torch.Tensor) -> QuantizedWeight:
        """Implement HeldWeight.rows."""
        stored = numbers if self._order is None else self._order[numbers]
        blocks = self.blocks.detach()[stored].view(-1, self._type.num_bytes)
        levels, scales = self._type.unpack(blocks)
        levels = levels.reshape(len(numbers), self.num_columns)
        scales = scales.reshape(len(numbers), -1, 2 if self.form.has_offsets else 1)
        return QuantizedWeight(levels, scales, self.form.bits)


def _halves(parts: torch.Tensor) -> torch.Tensor:
    """Return float16 numbers [n, count] of bytes [n, 2 * count]."""
    return parts.contiguous().view(torch.float16)


def _nibbles(parts: torch.Tensor, run: int) -> torch.Tensor:
    """Return the low halves of `run` bytes, then their high ones, and so on: uint8 [n, 2 * bytes]."""
    runs = parts.unflatten(1, (-1, run))
    return torch.stack((runs & 15, runs >> 4), dim=2).flatten(1)


def _fifth_bits(parts: torch.Tensor) -> torch.Tensor:
    """Return bit i of 4 bytes as 16 for number i of 32: uint8 [n, 32]."""
    bits = (parts[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(1) << 4


def _q8_0(blocks: torch.Tensor) -> _Unpacked:
    return blocks[:, 2:].contiguous().view(torch.int8), _halves(blocks[:, :2])[:, :, None]


def _q4_0(blocks: torch.Tensor) -> _Unpacked:
    return _nibbles(blocks[:, 2:], 16).to(torch.int8) - 8, _halves(blocks[:, :2])[:, :, None]


def _q4_1(blocks: torch.Tensor) -> _Unpacked:
    return _nibbles(blocks[:, 4:], 16), _halves(blocks[:, :4])[:, None]


def _q5_0(blocks: torch.Tensor) -> _Unpacked:
    levels = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    return levels.to(torch.int8) - 16, _halves(blocks[:, :2])[:, :, None]


def _q5_1(blocks: torch.Tensor) -> _Unpacked:
    levels = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    return levels, _halves(blocks[:, :4])[:, None]


def _k_scales(blocks: torch.Tensor) -> torch.Tensor:
    """Return scale and offset of the 8 groups of Q4_K or Q5_K, in_bytes.

    Of 12 bytes the first 4 hold six bits of four scales, the next 4 those of minima; the others follow in
    halves of the last 4, and in the two bits that are left.
    """
    scale, minimum, both = blocks[:, 4:16].split(4, dim=1)
    scales = torch.cat((scale & 63, both & 15 | scale >> 2 & 48), dim=1)
    minima = torch.cat((minimum & 63, both >> 4 | minimum >> 2 & 48), dim=1)
    of_block = _halves(blocks[:, :4]) * torch.tensor([1, -1], dtype=torch.float16)
    of_groups = torch.stack((scales, minima), dim=2).view(torch.int8)
    return in_bytes(of_block[:, None], of_groups[:, None])


def _q4_k(blocks: torch.Tensor) -> _Unpacked:
    return _nibbles(blocks[:, 16:], 32), _k_scales(blocks)


def _q5_k(blocks: torch.Tensor) -> _Unpacked:
    fifth = (blocks[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None]) & 1
    return _nibbles(blocks[:, 48:], 32) | fifth.flatten(1) << 4, _k_scales(blocks)


def _q6_k(blocks: torch.Tensor) -> _Unpacked:
    low = _nibbles(blocks[:, :128], 64)
    quarters = blocks[:, 128:192].unflatten(1, (2, 1, 32))
    high = (quarters >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]) & 3
    levels = (low | high.flatten(1) << 4).to(torch.int8) - 32
    of_groups = blocks[:, 192:208].contiguous().view(torch.int8)
    return levels, in_bytes(_halves(blocks[:, 208:])[:, None], of_groups[:, None, :, None])


_SIGNED_8, _SIGNED_4 = PanelForm(8, has_offsets=False), PanelForm(4, has_offsets=False)
_OFFSET_8, _OFFSET_4 = PanelForm(8, has_offsets=True), PanelForm(4, has_offsets=True)
_K_8, _K_4, _K_SIGNED = (
    PanelForm(8, True, "int8"),
    PanelForm(4, True, "int8"),
    PanelForm(8, False, "int8"),
)

BLOCK_TYPES: Mapping[str, BlockType] = {
    "Q8_0": BlockType(32, 34, 32, _SIGNED_8, _q8_0),
    "Q4_0": BlockType(32, 18, 32, _SIGNED_4, _q4_0),
    "Q4_1": BlockType(32, 20, 32, _OFFSET_4, _q4_1),
    "Q5_0": BlockType(32, 22, 32, _SIGNED_8, _q5_0),
    "Q5_1": BlockType(32, 24, 32, _OFFSET_8, _q5_1),
    "Q4_K": BlockType(256, 144, 32, _K_4, _q4_k),
    "Q5_K": BlockType(256, 176, 32, _K_8, _q5_k),
    "Q6_K": BlockType(256, 210, 16, _K_SIGNED, _q6_k),
}


def stored_bytes(kind: str, num_numbers: int, item_bytes: int) -> int:
    """Return the bytes that so many numbers of a type take once loaded; plain ones `item_bytes` each."""
    block = BLOCK_TYPES.get(kind)
    return num_numbers * item_bytes if block is None else block.panel_bytes(num_numbers)
