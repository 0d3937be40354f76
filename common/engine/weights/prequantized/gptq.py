"""GPTQ in 4 and 8 bits, as AutoGPTQ and GPTQModel store it (Frantar et al. 2022).

Of a product with K inputs and N outputs, `qweight` holds int32 [K * bits / 32, N], `qzeros` int32
[G, N * bits / 32], `scales` [G, N] and `g_idx` the group of each input, which act-order makes irregular.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch

from common.engine.weights.prequantized.integers import (
    GroupedIntegers,
    groups_in_order,
    unpacked,
)
from common.engine.weights.prequantized.packed import IntegerForm, PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import FLOATS, REMEDY, Beside
from common.engine.weights.prequantized.settings import Settings
from common.engine.weights.stored import StoredTensor
from pdserve.errors import SetupError

_MAIN = ".qweight"
_ONE_EACH = {4: 0x11111111, 8: 0x01010101}  # 1 in each number of a word


@dataclass(frozen=True, slots=True)
class Gptq:
    """Format of GPTQ's checkpoints; `group_size` inputs share a scale, -1: all."""

    bits: Literal[4, 8]
    group_size: int
    is_one_less: bool  # zero points are stored less one: version 1 of the format
    has_act_order: bool
    is_centred: bool  # all zero points are in the middle
    endings: tuple[str, ...] = (_MAIN, ".qzeros", ".scales", ".g_idx")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the settings. Raises SetupError for a kind that is not known."""
        settings.needs("bits", 4, 8)
        settings.needs("checkpoint_format", "gptq", "gptq_v2", None)
        settings.needs("format", "gptq", "gptq_v2", None)
        settings.needs("pack_dtype", "int32", None)
        for key in ("is_marlin_format", "adapter", "rotation"):
            settings.needs(key, False, "", None)
        _refuse_overrides(settings)
        version = settings.fields.get("checkpoint_format") or settings.fields.get("format")
        return cls(
            bits=8 if settings.fields.get("bits") == 8 else 4,
            group_size=settings.number("group_size", 128),
            is_one_less=version != "gptq_v2",
            has_act_order=bool(settings.fields.get("desc_act")),
            is_centred=bool(settings.fields.get("sym")),
        )

    @property
    def told(self) -> str:
        """Name for the user."""
        return f"GPTQ {self.bits}-bit"

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        for main in tensors:
            if main.endswith(_MAIN):
                yield self._found(main.removesuffix(_MAIN), Beside(tensors, main))

    def _found(self, layer: str, beside: Beside) -> PackedWeight:
        in_word = 32 // self.bits
        words, num_outputs = beside.matrix("I32")
        num_inputs = words * in_word
        num_groups = beside.count_groups(num_inputs, self.group_size)
        beside.needed(f"{layer}.qzeros", ("I32",), (num_groups, -(-num_outputs // in_word)))
        scales = beside.needed(f"{layer}.scales", FLOATS, (num_groups, num_outputs))
        form = IntegerForm(self.bits, num_groups, self.is_centred, scales.is_wide)
        roles = ["qweight", "qzeros", "scales"]
        if beside.has(f"{layer}.g_idx"):
            beside.needed(f"{layer}.g_idx", ("I32", "I64"), (num_inputs,))
            roles.append("g_idx")
        parts = {role: f"{layer}.{role}" for role in roles}
        return PackedWeight(
            f"{layer}.weight",
            (num_outputs, num_inputs),
            parts,
            lambda tensors: self._numbers_of(tensors, layer),
            None if self.has_act_order else form,
        )

    def _numbers_of(self, parts: Parts, layer: str) -> GroupedIntegers:
        words, scales = parts["qweight"], parts["scales"].T.float()
        zeros = parts["qzeros"]
        if self.is_one_less:
            # added to whole words, as it was subtracted: what a zero point of 0 borrowed comes back
            zeros = zeros + _ONE_EACH[self.bits]
        zeros = unpacked(zeros, self.bits)[:, : len(scales)].T.float()
        return GroupedIntegers(
            lambda first, last: unpacked(words[:, first:last].T, self.bits),
            scales,
            zeros,
            self._group_of(parts, layer),
        )

    def _group_of(self, parts: Parts, layer: str) -> torch.Tensor | None:
        """Return the group of each input; None: in order. Raises SetupError for one without scales."""
        num_groups = len(parts["scales"])
        num_inputs = len(parts["qweight"]) * 32 // self.bits
        in_order = groups_in_order(num_inputs, num_groups, self.group_size)
        # AutoGPTQ writes zeros where it does not reorder
        if "g_idx" not in parts or not parts["g_idx"].any():
            return in_order
        group_of = parts["g_idx"].long()
        if group_of.min() < 0 or group_of.max() >= num_groups:
            reason = f"{layer}.g_idx names a group outside the {num_groups} of its scales"
            raise SetupError(reason, REMEDY)
        width = num_inputs if self.group_size == -1 else self.group_size
        is_in_order = torch.equal(group_of, torch.arange(num_inputs) // width)
        return in_order if is_in_order else group_of


def _refuse_overrides(settings: Settings) -> None:
    """Raise SetupError for layers with settings of their own; those that are left out are no matter."""
    overrides = settings.fields.get("dynamic") or {}
    keys = list(overrides) if isinstance(overrides, dict) else [overrides]
    for key in keys:
        if not str(key).startswith("-:"):
            raise settings.refusal(f"dynamic has settings of its own for {key!r}")
