"""FP8 weights with scales of any grid: one for all, one a row, or one a block (DeepSeek-V3, 128 x 128).

A tensor stored in 8-bit floats has its scale beside it, named `_scale` or `_scale_inv` behind its own name.
Both multiply. A third dimension in front is that of a layer's experts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch

from common.engine.weights.prequantized.integers import Rows
from common.engine.weights.prequantized.packed import PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import FLOATS, Beside
from common.engine.weights.prequantized.settings import Settings
from common.engine.weights.stored import StoredTensor

_STORED = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Float8:
    """Format of FP8 weights; `block` is the rows and columns that share a scale, None: no blocks."""

    told: str
    block: tuple[int, int] | None = None
    endings: tuple[str, ...] = (
        *(".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".pre_quant_scale"),
        *("_proj_scale", "_proj_scale_inv"),
    )

    @classmethod
    def of_blocks(cls, settings: Settings) -> Self:
        """Read settings of `fp8`. Raises SetupError for a kind that is not known."""
        settings.needs("fmt", "e4m3", "e5m2", None)
        settings.needs("scale_fmt", "float", "ue8m0", None)
        block = settings.fields.get("weight_block_size")
        if block is None:
            return cls("FP8")
        if not isinstance(block, list) or [type(size) for size in block] != [int, int]:
            raise settings.refusal(f"weight_block_size is {block!r}")
        return cls(f"FP8 in blocks of {block[0]} x {block[1]}", (block[0], block[1]))

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        for main, stored in tensors.items():
            if stored.dtype in _STORED and not main.endswith(self.endings):
                yield self._found(Beside(tensors, main))

    def _found(self, beside: Beside) -> PackedWeight:
        main = beside.main
        there = [role for role in _SCALES if beside.has(f"{main}{role}")]
        if len(there) > 1:
            raise beside.refusal(f"{main} has two scales, {main}{there[0]} and {main}{there[1]}")
        role = there[0] if there else _SCALES[-1]
        return self.packed(main, f"{main}{role}", beside)

    def packed(self, name: str, scale_name: str, beside: Beside) -> PackedWeight:
        """Return the weight `name`, with its scales. Raises SetupError where these fit it not."""
        shape = beside.needed(beside.main, _STORED).shape
        scale = beside.needed(scale_name, (*FLOATS, "F8_E8M0")).shape
        grid = _grid(scale, shape)
        widths = None if grid is None else self._widths(grid, shape)
        if widths is None:
            raise beside.refusal(
                f"{scale_name} has the shape {list(scale)}, which fits no {self.told} of {list(shape)}"
            )
        parts = {"": beside.main, "scale": scale_name}
        return PackedWeight(name, shape, parts, lambda tensors: _rows_of(tensors, widths))

    def _widths(self, grid: Shape, shape: Shape) -> Shape | None:
        """Return the numbers that a scale serves, along each dimension; None: it fits no block."""
        blocks = (1,) * (len(shape) - 2) + (self.block or (0, 0))
        widths = []
        for scales, size, width in zip(grid, shape, blocks[-len(shape) :], strict=True):
            if scales in (1, size):
                widths.append(size // scales)
            elif width > 0 and -(-size // width) == scales:
                widths.append(width)
            else:
                return None
        return tuple(widths)


def _grid(scale: Shape, shape: Shape) -> Shape | None:
    """Return the shape of scales with all dimensions of their weight; None: they are no grid of it."""
    if len(shape) not in (2, 3) or 0 in shape:
        return None
    if scale in ((), (1,)):
        return (1,) * len(shape)
    if scale == shape[:1]:  # one a row, or one an expert
        return scale + (1,) * (len(shape) - 1)
    return scale if len(scale) == len(shape) else None


def _rows_of(parts: Parts, widths: Shape) -> Rows:
    weight = parts[""]
    num_scales = [-(-size // width) for size, width in zip(weight.shape, widths, strict=True)]
    scale = parts["scale"].float().reshape(num_scales)
    for dim in range(1, weight.dim()):
        if 1 < widths[dim] < weight.shape[dim]:
            scale = scale.index_select(dim, torch.arange(weight.shape[dim]) // widths[dim])
    of_row = torch.arange(len(weight)) // widths[0]
    return lambda first, last: weight[first:last].float() * scale[of_row[first:last]]
