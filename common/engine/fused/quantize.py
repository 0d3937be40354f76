"""Weights as small integers: levels of 8 or 4 bits, with a scale for each group of a row.

Signed levels stand for scale * level, unsigned ones for scale * level + offset: so a group has an offset too.
Weights that come quantized are held as they come. Full ones are rounded, in groups of 32 numbers with float16
scales. The two formats for that are llama.cpp's (ggml-quants.c):

- int8 (Q8_0): levels -127 to 127; the scale is the group's largest absolute value / 127.
- int4 (Q4_1): levels 0 to 15 from the group's smallest number, the offset, to its largest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from common.engine.cpu.scale_blocks import BLOCK
from common.engine.fused import block_scales

Format = Literal["int8", "int4"]
Scales = Literal["float16", "float32", "int8"]
"""Dtypes of scales and offsets; int8 is multiplied with a float16 of a block (block_scales.py)."""

HEAD_FORMAT: Format = "int8"  # whatever the other weights are: the head decides between tokens
GROUP = 32  # numbers of a row that share a scale, where full weights are rounded
_CHUNK_NUMBERS = 1 << 20  # as many at a time are held in float32


@dataclass(frozen=True, slots=True)
class PanelForm:
    """Form of panels of small integers; a kernel is compiled for each."""

    bits: Literal[4, 8]
    has_offsets: bool  # levels are unsigned then
    scales: Scales = "float16"

    def __str__(self) -> str:
        """Return its name in logs, for example "4-bit-offsets-int8"."""
        parts = [f"{self.bits}-bit"]
        parts += ["offsets"] if self.has_offsets else []
        parts += [self.scales] if self.scales != "float16" else []
        return "-".join(parts)

    @property
    def level_range(self) -> tuple[int, int]:
        """Lowest and highest level, as far from 0 where levels are signed."""
        if self.has_offsets:
            return 0, 2**self.bits - 1
        highest = 2 ** (self.bits - 1) - 1
        return -highest, highest


_SCALES: Mapping[torch.dtype, Scales] = {
    torch.float16: "float16",
    torch.float32: "float32",
    torch.int8: "int8",
}
_ROUNDED: Mapping[Format, PanelForm] = {"int8": PanelForm(8, False), "int4": PanelForm(4, True)}


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Weight [N, K] as levels and scales, for panels of small integers (quantized_panels.py)."""

    levels: torch.Tensor  # [N, K]: int8, or uint8 where groups have offsets; of `bits` bits
    # float16 or float32 [N, K / n, 1], or with offsets behind them [N, K / n, 2]. n is a power of two: 16 or
    # more, with offsets 32 or more. int8 are those of block_scales.in_bytes
    scales: torch.Tensor
    bits: Literal[4, 8]

    @property
    def form(self) -> PanelForm:
        """Form of the panels that hold the weight."""
        return PanelForm(self.bits, self.levels.dtype == torch.uint8, _SCALES[self.scales.dtype])

    @property
    def num_groups(self) -> int:
        """Groups of a row."""
        return block_scales.num_groups(self.scales, self.levels.shape[1])

    def dequantized(self) -> torch.Tensor:
        """Return the numbers, float32 [N, K]."""
        groups = self.levels.unflatten(1, (self.num_groups, -1)).float()
        scales, *offsets = self._wide_scales().split(1, dim=-1)
        return sum(offsets, groups * scales).flatten(1)

    def _wide_scales(self) -> torch.Tensor:
        if self.scales.dtype != torch.int8:
            return self.scales.float()
        return block_scales.widened(self.scales, self.levels.shape[1] // BLOCK)

    def changed(self, rows: Callable[[torch.Tensor], torch.Tensor]) -> "QuantizedWeight":
        """Return the weight with other rows: what `rows` makes of each tensor of N rows."""
        return QuantizedWeight(rows(self.levels), rows(self.scales), self.bits)


def can_quantize(weight: torch.Tensor) -> bool:
    """Return True if the rows of a weight [N, K] split into whole groups of floats."""
    is_whole: bool = weight.shape[1] % GROUP == 0
    return is_whole and weight.is_floating_point()


def quantize(weight: torch.Tensor, form: Format | PanelForm, group: int = GROUP) -> QuantizedWeight:
    """Round a weight [N, K] of any float dtype to the nearest levels, each group by itself.

    A group with a number that is not finite gets a scale that is not, so that its sums show it.
    """
    panel_form = form if isinstance(form, PanelForm) else _ROUNDED[form]
    num_rows = max(_CHUNK_NUMBERS // weight.shape[1], 1)
    parts = [_quantize_rows(rows.float(), panel_form, group) for rows in weight.split(num_rows)]
    levels, scales = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return QuantizedWeight(levels, scales, panel_form.bits)


def _quantize_rows(
    rows: torch.Tensor, form: PanelForm, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    groups = rows.unflatten(1, (-1, group))
    lowest, highest = form.level_range
    if not form.has_offsets:
        exact = groups.abs().amax(-1, keepdim=True) / highest
    else:
        offsets = groups.amin(-1, keepdim=True)
        exact = torch.cat(((groups.amax(-1, keepdim=True) - offsets) / highest, offsets), dim=-1)
    stored, (scales, *added) = _stored(exact, form, rows.shape[1])
    kind = torch.uint8 if form.has_offsets else torch.int8
    if added:
        groups = groups - added[0]
    return _levels(groups, scales, lowest, highest).to(kind), stored


def _stored(
    exact: torch.Tensor, form: PanelForm, depth: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return scales and perhaps offsets as a form stores them, and what they then are, float32 [N, G, 1]."""
    if form.scales == "int8":
        stored = block_scales.nearest(exact, depth // BLOCK)
        return stored, block_scales.widened(stored, depth // BLOCK).split(1, dim=-1)
    stored = exact.to(torch.float32 if form.scales == "float32" else torch.float16)
    return stored, stored.float().split(1, dim=-1)


def _levels(groups: torch.Tensor, scales: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    """Return the nearest levels [N, K] by scales as they are stored; where a scale is 0 any level will do."""
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    return (groups * inverse).round_().clamp_(lowest, highest).nan_to_num_(0.0).flatten(1)
