"""Weights whose integers are held as a quantized checkpoint has them, until panels are made of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from common.engine.fused.held import HeldLinear, HeldWeight
from common.engine.fused.quantize import PanelForm, QuantizedWeight
from common.engine.weights.prequantized.integers import GroupedIntegers
from common.engine.weights.prequantized.panel_groups import KeptForm
from pdserve.errors import SetupError

Held = Mapping[int, tuple[torch.Tensor, HeldWeight]]
"""Held weights, by the address of the tensor that stands for each in a model."""

_CHUNK_ROWS = 1024  # a multiple of the rows that share a stored word
_SIGN = 128  # between int8 and uint8


class HeldIntegers(HeldWeight):
    """Weight [N, K] as unsigned levels, uint8 [N, K], or [N, K / 2] of 4 bits with the first in the low ones.

    `scales` are [N, G, 1] where all zero points are in the middle, else with offsets behind them [N, G, 2].
    """

    def __init__(self, levels: torch.Tensor, scales: torch.Tensor, form: PanelForm) -> None:
        super().__init__()
        self.levels = nn.Parameter(levels, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.form = form
        self.num_rows = len(levels)
        self.num_columns = levels.shape[1] * 8 // form.bits
        self.group = self.num_columns // scales.shape[1]

    def rows(self, numbers: torch.Tensor) -> QuantizedWeight:
        """Implement HeldWeight.rows."""
        levels = self.levels[numbers]
        if self.form.bits == 4:
            levels = torch.stack((levels & 15, levels >> 4), dim=-1).flatten(1)
        if not self.form.has_offsets:
            levels = (levels.short() - _middle(self.form.bits)).to(torch.int8)
        return QuantizedWeight(levels, self.scales[numbers], self.form.bits)


def hold(numbers: GroupedIntegers, form: KeptForm) -> HeldIntegers:
    """Return the integers of a weight as they are, with scales by the groups of `form`.

    The numbers are those of the checkpoint, exactly where its scales are of 16 bits.
    """
    scales, zeros, bits = numbers.scales, numbers.zeros, form.integers.bits
    is_signed = numbers.levels(0, 1).dtype == torch.int8
    zeros = zeros + _SIGN if is_signed else zeros
    if bool((zeros == _middle(bits)).all()):
        kept = scales[..., None]
        if torch.equal(kept.half().float(), kept):
            kept = kept.half()
    else:
        kept = torch.stack((scales, -zeros * scales), dim=-1)
    levels = _levels(numbers, len(scales), bits)
    num_columns = levels.shape[1] * 8 // bits
    kept = kept.repeat_interleave(num_columns // scales.shape[1] // form.group, dim=1)
    is_wide = kept.dtype == torch.float32
    panel_form = PanelForm(bits, kept.shape[2] == 2, "float32" if is_wide else "float16")
    return HeldIntegers(levels, kept, panel_form)


def put_held(model: Any, held: Held) -> nn.Module:
    """Put held weights into a model in place of products; return it.

    Raises SetupError where one is no product of the model.
    """
    left = {address: weight for address, (_, weight) in held.items()}
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and (found := left.pop(module.weight.data_ptr(), None)):
            model.set_submodule(name, HeldLinear(found, module.bias))
    if left:
        reason = f"{len(left)} quantized weights belong to no product of {type(model).__name__}"
        raise SetupError(reason, "set engine.quantization to none")
    whole: nn.Module = model
    return whole


def _middle(bits: int) -> int:
    """Return the level that signed levels are stored as 0 plus."""
    return 1 << bits - 1


def _levels(numbers: GroupedIntegers, num_rows: int, bits: int) -> torch.Tensor:
    parts = []
    for first in range(0, num_rows, _CHUNK_ROWS):
        levels = numbers.levels(first, min(first + _CHUNK_ROWS, num_rows)).contiguous()
        if levels.dtype == torch.int8:
            levels = levels.view(torch.uint8) ^ _SIGN
        parts.append(levels[:, ::2] | levels[:, 1::2] << 4 if bits == 4 else levels)
    return torch.cat(parts)
