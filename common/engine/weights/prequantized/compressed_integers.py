"""Integer weights of compressed-tensors: packed in words with scales by group, or int8 with scales by row."""

from typing import Literal

import torch

from common.engine.weights.prequantized.integers import GroupedIntegers, unpacked
from common.engine.weights.prequantized.packed import IntegerForm, PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import FLOATS, REMEDY, Beside
from pdserve.errors import SetupError

_WORD_BITS = 32
_BITS: tuple[Literal[4, 8], ...] = (4, 8)


def packed(layer: str, beside: Beside, read: Read) -> PackedWeight:
    """Return a weight in words, where each number is stored plus half its range.

    Raises SetupError for a broken one.
    """
    num_outputs, num_words = beside.matrix("I32")
    name = f"{layer}.weight_shape"
    beside.needed(name, ("I64", "I32"), (2,))
    stated, num_columns = (int(size) for size in read(name))
    bits = next((b for b in _BITS if _count_words(num_columns, b) == num_words), None)
    if stated != num_outputs or bits is None:
        found = [num_outputs, num_words]
        raise beside.refusal(
            f"{name} is {[stated, num_columns]}, and {beside.main} has {found} words"
        )
    roles = ["weight_packed", "weight_shape", "weight_scale"]
    num_groups = count_groups(beside, f"{layer}.weight_scale", (num_outputs, num_columns))
    is_wide = beside.tensors[f"{layer}.weight_scale"].is_wide
    if beside.has(name := f"{layer}.weight_zero_point"):
        beside.needed(name, ("I32",), (_count_words(num_outputs, bits), num_groups))
        roles.append("weight_zero_point")
    if beside.has(name := f"{layer}.weight_g_idx"):
        beside.needed(name, ("I32", "I64"), (num_columns,))
        roles.append("weight_g_idx")
    elif num_columns % num_groups:
        raise beside.refusal(f"{num_columns} columns are no {num_groups} whole groups")
    parts = {role: f"{layer}.{role}" for role in roles}
    shape = (num_outputs, num_columns)
    is_centred = "weight_zero_point" not in roles
    form = None
    if "weight_g_idx" not in roles:
        form = IntegerForm(bits, num_groups, is_centred, is_wide)
    return PackedWeight(
        f"{layer}.weight", shape, parts, lambda tensors: _words(tensors, shape, bits), form
    )


def whole(main: str, beside: Beside) -> PackedWeight:
    """Return a weight of int8. Raises SetupError for a broken one."""
    shape = beside.matrix("I8")
    roles = ["", "_scale"]
    num_groups = count_groups(beside, f"{main}_scale", shape)
    if shape[1] % num_groups:
        raise beside.refusal(f"{shape[1]} columns are no {num_groups} whole groups")
    if beside.has(f"{main}_zero_point"):
        scale = beside.tensors[f"{main}_scale"].shape
        beside.needed(f"{main}_zero_point", ("I8", *FLOATS), scale)
        roles.append("_zero_point")
    parts = {role: f"{main}{role}" for role in roles}
    is_wide = beside.tensors[f"{main}_scale"].is_wide
    form = IntegerForm(8, num_groups, "_zero_point" not in roles, is_wide)
    return PackedWeight(main, shape, parts, lambda tensors: bytes_of(tensors, shape[0]), form)


def count_groups(beside: Beside, name: str, shape: tuple[int, int]) -> int:
    """Count the groups of a row, by the scales: [N, G], or one number for all."""
    scale = beside.needed(name, FLOATS).shape
    if scale in ((), (1,)):
        return 1
    if len(scale) != 2 or scale[0] not in (1, shape[0]) or not 0 < scale[1] <= shape[1]:
        raise beside.refusal(f"{name} has the shape {list(scale)}, and {beside.main} {list(shape)}")
    return scale[1]


def _count_words(num_numbers: int, bits: int) -> int:
    return -(-num_numbers * bits // _WORD_BITS)


def _words(parts: Parts, shape: tuple[int, int], bits: int) -> GroupedIntegers:
    words = parts["weight_packed"]
    scales = _by_row(parts["weight_scale"], shape[0])
    half = 1 << bits - 1
    zeros = torch.full_like(scales, half)  # levels and zero points are stored plus half alike
    if "weight_zero_point" in parts:
        zeros = unpacked(parts["weight_zero_point"].T, bits)[:, : shape[0]].T.float()
    group_of = parts["weight_g_idx"].long() if "weight_g_idx" in parts else None
    if (
        group_of is not None
        and not 0 <= int(group_of.min()) <= int(group_of.max()) < scales.shape[1]
    ):
        raise SetupError("weight_g_idx names a group that has no scale", REMEDY)
    return GroupedIntegers(
        lambda first, last: unpacked(words[first:last], bits)[:, : shape[1]],
        scales,
        zeros,
        group_of,
    )


def bytes_of(parts: Parts, num_rows: int) -> GroupedIntegers:
    """Return the integers of int8 levels "", and of "_scale" and perhaps "_zero_point" by row and group."""
    levels = parts[""]
    scales = _by_row(parts["_scale"], num_rows)
    zeros = torch.zeros_like(scales)
    if "_zero_point" in parts:
        zeros = _by_row(parts["_zero_point"], num_rows)
    return GroupedIntegers(lambda first, last: levels[first:last], scales, zeros, None)


def _by_row(scales: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return scales [N, G] in float32 of those that may be one for all rows."""
    by_row = scales.float().reshape(-1, scales.shape[-1] if scales.dim() == 2 else 1)
    return by_row.expand(num_rows, -1)
