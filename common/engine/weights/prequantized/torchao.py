"""Checkpoints of torchao, as `transformers` saves them: the files' metadata names each weight's kind.

Of a product with K inputs and N outputs, `_weight_qdata` holds int8 or FP8 [N, K], with `_weight_scale` and
perhaps `_weight_zero_point` of [N, G]. Int4Tensor has two numbers a byte, [N, K / 2], and scales [G, N]; its
zero point is no level but a number to add. Activations are not quantized here, whatever the metadata says.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.engine.weights.prequantized.compressed_integers import bytes_of, count_groups
from common.engine.weights.prequantized.float8 import Float8
from common.engine.weights.prequantized.integers import Rows
from common.engine.weights.prequantized.packed import IntegerForm, PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import FLOATS, Beside
from common.engine.weights.stored import StoredTensor
from pdserve.errors import SetupError

_NAMES = "tensor_names"  # in the metadata: JSON of all weights, each with JSON of its own
_PLAIN = "Tensor"
_OF_ACTIVATIONS = ("act_quant_scale", "act_quant_zero_point")
Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TorchAo:
    """Format of torchao's tensors."""

    told: str = "torchao"
    endings: tuple[str, ...] = ("._weight_qdata", "._weight_scale", "._weight_zero_point")

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        files = sorted({tensor.file for tensor in tensors.values()})
        # the metadata of each file may be that of all
        weights = dict(weight for file in files for weight in _weights_of(file))
        for name, fields in weights.items():
            owner, _, leaf = name.rpartition(".")
            stem = f"{owner}._{leaf}_"
            if f"{stem}qdata" in tensors:
                yield self._found(name, stem, Beside(tensors, f"{stem}qdata"), fields)

    def _found(self, name: str, stem: str, beside: Beside, fields: Fields) -> PackedWeight:
        if beside.has(f"{stem}act_pre_scale"):
            raise beside.refusal(f"{name} scales activations before its product")
        match fields.get("_type"):
            case "Int8Tensor" | "IntxUnpackedToInt8Tensor":
                found = _bytes(name, stem, beside)
            case "Float8Tensor":
                found = _floats(name, stem, beside, fields)
            case "Int4Tensor":
                found = _nibbles(name, stem, beside)
            case kind:
                raise beside.refusal(f"{name} is of torchao's kind {kind!r}")
        unused = {role: f"{stem}{role}" for role in _OF_ACTIVATIONS if beside.has(f"{stem}{role}")}
        return PackedWeight(
            name, found.shape, {**found.parts, **unused}, found.numbers_of, found.form
        )


def _weights_of(file: Path) -> Iterator[tuple[str, Fields]]:
    """Yield the weights that a file's metadata names, without plain ones. Raises SetupError."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        for name in json.loads(metadata.get(_NAMES, "[]")):
            fields = json.loads(metadata[name])
            if fields["_type"] != _PLAIN:
                yield name, fields
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SetupError(f"{file}: its metadata is not torchao's", "Copy it again") from error


def _bytes(name: str, stem: str, beside: Beside) -> PackedWeight:
    shape = beside.matrix("I8")
    scale = f"{stem}scale"
    num_groups = count_groups(beside, scale, shape)
    if shape[1] % num_groups:
        raise beside.refusal(f"{shape[1]} columns are no {num_groups} whole groups")
    parts = {"": beside.main, "_scale": scale}
    if beside.has(zeros := f"{stem}zero_point"):
        beside.needed(zeros, ("I8", *FLOATS), beside.tensors[scale].shape)
        parts["_zero_point"] = zeros
    # in all kinds that torchao makes by default: only the zero points themselves tell
    form = IntegerForm(8, num_groups, True, beside.tensors[scale].is_wide)
    return PackedWeight(name, shape, parts, lambda tensors: bytes_of(tensors, shape[0]), form)


def _floats(name: str, stem: str, beside: Beside, fields: Fields) -> PackedWeight:
    data = fields.get("_data")
    block = data.get("block_size") if isinstance(data, dict) else None
    is_block = isinstance(block, list) and [type(size) for size in block] == [int, int]
    form = Float8("torchao's FP8", (block[0], block[1]) if block and is_block else None)
    return form.packed(name, f"{stem}scale", beside)


def _nibbles(name: str, stem: str, beside: Beside) -> PackedWeight:
    num_rows, num_bytes = beside.matrix("I8")
    shape = (num_rows, 2 * num_bytes)
    scale, zero = f"{stem}scale", f"{stem}zero_point"
    groups = beside.needed(scale, FLOATS).shape
    if len(groups) != 2 or groups[1] != num_rows or groups[0] < 1 or shape[1] % groups[0]:
        raise beside.refusal(f"{scale} has the shape {list(groups)}, and {name} {list(shape)}")
    beside.needed(zero, FLOATS, groups)
    parts = {"qdata": beside.main, "scale": scale, "zero_point": zero}
    return PackedWeight(name, shape, parts, _rows_of_nibbles)


def _rows_of_nibbles(parts: Parts) -> Rows:
    stored = parts["qdata"].view(torch.uint8)
    scales, added = (parts[role].T.float()[..., None] for role in ("scale", "zero_point"))

    def rows(first: int, last: int) -> torch.Tensor:
        taken = stored[first:last]
        # two's complement of 4 bits, the first number in the low ones
        levels = torch.stack((taken & 15, taken >> 4), dim=-1).flatten(1) ^ 8
        groups = (levels.float() - 8).unflatten(1, (scales.shape[1], -1))
        return (groups * scales[first:last] + added[first:last]).flatten(1)

    return rows
