"""Layout of weights as small integers in panels (cpu/quantized_panel.py), made at load."""

import torch

from common.engine.cpu.panel import WIDTH
from common.engine.cpu.quantized_levels import GROUP as INTEGER_GROUP
from common.engine.cpu.scale_blocks import BLOCK, HALF_ROWS
from common.engine.cpu.target import host_target
from common.engine.fused.block_scales import parts_of
from common.engine.fused.panels import Panels, dealt, padded
from common.engine.fused.quantize import (
    GROUP,
    HEAD_FORMAT,
    Format,
    PanelForm,
    QuantizedWeight,
    can_quantize,
    quantize,
)
from common.engine.fused.weights import Linear, RowsDone, keep_rows
from common.engine.memory.huge_pages import HugePages

_IN_WORD = 8  # 4-bit levels of an int32
_BITS = 4
_SIGN = 0x80


class QuantizedPanels:
    """Layout in panels of a format. A weight whose rows are no whole groups stays in its own dtype."""

    def __init__(
        self, form: Format | PanelForm, head: Format | PanelForm = HEAD_FORMAT, group: int = GROUP
    ) -> None:
        self._format = form
        self._head_format = head
        self._group = group
        self._memory = HugePages()
        self._full = Panels(self._memory)

    def linear(self, layer: Linear) -> Linear:
        """Quantize and lay out a product for CpuOps.linear."""
        if not can_quantize(layer.weight):
            return self._full.linear(layer)
        return self._laid_out(layer, layer.weight, self._format, layer.bias)

    def gated(self, layer: Linear) -> Linear:
        """Deal the rows of gate and up as Panels does."""
        if not can_quantize(layer.weight):
            return self._full.gated(layer)
        bias = None if layer.bias is None else dealt(layer.bias)
        return self._laid_out(layer, dealt(layer.weight), self._format, bias)

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Quantize and lay out the head, in a format of its own."""
        if not can_quantize(layer.weight):
            return self._full.head(layer, done)
        return self._laid_out(layer, layer.weight, self._head_format, layer.bias)

    def _laid_out(
        self,
        layer: Linear,
        weight: torch.Tensor,
        form: Format | PanelForm,
        bias: torch.Tensor | None,
    ) -> Linear:
        levels, scales = to_quantized_panels(quantize(weight, form, self._group))
        copies = self._memory.copy(levels), self._memory.copy(scales)
        return _product(layer, *copies, bias)


def laid_out(layer: Linear, weight: QuantizedWeight, bias: torch.Tensor | None) -> Linear:
    """Return the product of `layer` with a weight in panels; gated ones are dealt already."""
    return _product(layer, *to_quantized_panels(weight), bias)


def _product(
    layer: Linear, levels: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> Linear:
    biases = None if bias is None else padded(bias.float(), WIDTH)
    return Linear(levels, biases, num_outputs=layer.out_features, scales=scales)


def to_quantized_panels(weight: QuantizedWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay out levels [P, K / n, WIDTH], n of them in a word, and scales [P, K / group, 1 or 2, WIDTH].

    Levels and dtypes are those of quantized_matmul or, where the CPU computes with them, integer_matmul.
    Scales of blocks are bytes: [P, K / 256 * (2 + groups), 1 or 2, WIDTH], the float16 of a block before the
    int8 of its groups.
    """
    scales = _scale_panels(weight)
    if weight.bits == 8 and not is_for_integers(weight.levels.shape[1], weight.num_groups):
        return _side_by_side(weight.levels), scales
    rows = _packed(weight.levels) if weight.bits == _BITS else _in_words(weight.levels)
    words = _side_by_side(rows)
    return words.view(torch.uint32) if weight.levels.dtype == torch.uint8 else words, scales


def _scale_panels(weight: QuantizedWeight) -> torch.Tensor:
    if weight.form.scales != "int8":
        return _side_by_side(weight.scales.flatten(1)).unflatten(1, weight.scales.shape[1:])
    of_blocks, of_groups = parts_of(weight.scales, weight.levels.shape[1] // BLOCK)
    halves, integers = (
        _side_by_side(part.flatten(1)).unflatten(1, part.shape[1:])
        for part in (of_blocks, of_groups)
    )
    # whole rows of float16 as bytes, two rows of bytes for each
    first = halves.view(torch.int8).reshape(*halves.shape[:2], HALF_ROWS, *halves.shape[2:])
    return torch.cat((first, integers), dim=2).flatten(1, 2)


def is_for_integers(depth: int, num_scales: int) -> bool:
    """Return True where integer_matmul multiplies rows of `depth` numbers by panels with so many scales."""
    return host_target().integer_dot != "none" and num_scales * INTEGER_GROUP <= depth


def _in_words(levels: torch.Tensor) -> torch.Tensor:
    """View four levels of 8 bits as an int32 word, with 128 added to those that have a sign."""
    if levels.dtype == torch.int8:
        levels = levels.view(torch.uint8) ^ _SIGN
    return levels.contiguous().view(torch.int32)


def _packed(levels: torch.Tensor) -> torch.Tensor:
    """Pack 4-bit levels [N, K] into int32 words [N, K / 8], the first in the lowest bits."""
    by_word = levels.unflatten(1, (-1, _IN_WORD))
    words = torch.zeros(by_word.shape[:2], dtype=torch.int32)
    for number in range(_IN_WORD):
        words |= (by_word[..., number].int() & (2**_BITS - 1)) << (_BITS * number)
    return words


def _side_by_side(rows: torch.Tensor) -> torch.Tensor:
    """Transpose rows [N, n] to panels [ceil(N / WIDTH), n, WIDTH]; zeros fill the last one."""
    return padded(rows, WIDTH).unflatten(0, (-1, WIDTH)).transpose(1, 2).contiguous()
