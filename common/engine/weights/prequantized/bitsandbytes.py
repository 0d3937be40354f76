"""Weights of bitsandbytes: NF4 and FP4 in blocks (Dettmers et al. 2023), and int8 by row (LLM.int8).

A 4-bit `weight` holds two numbers a byte, the first in the high bits, as places in `quant_map`. Each block
of them has an `absmax`, which may be quantized itself. An int8 `weight` [N, K] has `SCB`, the largest of
each row.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from common.engine.weights.prequantized.integers import GroupedIntegers, Rows
from common.engine.weights.prequantized.packed import IntegerForm, PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import FLOATS, Beside
from common.engine.weights.stored import StoredTensor

_STATE = ".quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_INT8 = 127


@dataclass(frozen=True, slots=True)
class BitsAndBytes:
    """Format of bitsandbytes."""

    told: str = "bitsandbytes"
    endings: tuple[str, ...] = (
        *(".SCB", ".weight_format", ".absmax", ".quant_map", ".nested_absmax"),
        *(".nested_quant_map", *(f"{_STATE}{kind}" for kind in _KINDS)),
    )

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        for main, stored in tensors.items():
            state = next((s for k in _KINDS if (s := f"{main}{_STATE}{k}") in tensors), None)
            if state is not None:
                yield _blocks(main, state, Beside(tensors, main), read)
            elif main.endswith(".weight") and stored.dtype == "I8":
                yield _bytes(main.removesuffix(".weight"), Beside(tensors, main), read)


@dataclass(frozen=True, slots=True)
class _State:
    """Numbers of one weight's quant_state."""

    shape: tuple[int, ...]
    block: int
    nested_block: int
    nested_offset: float


def _blocks(main: str, state: str, beside: Beside, read: Read) -> PackedWeight:
    beside.needed(state, ("U8",))
    known = _read_state(beside, state, read)
    num_blocks = -(-math.prod(known.shape) // known.block)
    beside.needed(main, ("U8",), (math.prod(known.shape) // 2, 1))
    beside.needed(f"{main}.quant_map", FLOATS, (16,))
    roles = ["", ".quant_map", ".absmax"]
    if known.nested_block:
        beside.needed(f"{main}.absmax", ("U8",), (num_blocks,))
        beside.needed(f"{main}.nested_quant_map", FLOATS, (256,))
        beside.needed(f"{main}.nested_absmax", FLOATS, (-(-num_blocks // known.nested_block),))
        roles += [".nested_quant_map", ".nested_absmax"]
    else:
        beside.needed(f"{main}.absmax", FLOATS, (num_blocks,))
    parts = {role: f"{main}{role}" for role in roles} | {"state": state}
    return PackedWeight(main, known.shape, parts, lambda tensors: _rows_of_blocks(tensors, known))


def _read_state(beside: Beside, name: str, read: Read) -> _State:
    try:
        fields = json.loads(bytes(read(name).tolist()))
        shape = tuple(int(size) for size in fields["shape"])
        nested = int(fields.get("nested_blocksize", 0))
        state = _State(shape, int(fields["blocksize"]), nested, fields.get("nested_offset", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise beside.refusal(f"{name} cannot be read") from error
    if len(shape) != 2 or min(*shape, state.block) < 1 or nested < 0 or math.prod(shape) % 2:
        raise beside.refusal(f"{name} describes a weight of shape {list(shape)}")
    return state


def _rows_of_blocks(parts: Parts, state: _State) -> Rows:
    levels, largest = parts[""].flatten(), parts[".absmax"]
    numbers = parts[".quant_map"].float()
    if state.nested_block:
        outer = parts[".nested_absmax"].float()[torch.arange(len(largest)) // state.nested_block]
        largest = parts[".nested_quant_map"].float()[largest.int()] * outer + state.nested_offset
    largest, num_columns = largest.float(), state.shape[1]

    def rows(first: int, last: int) -> torch.Tensor:
        begin, end = first * num_columns, last * num_columns
        pairs = levels[begin // 2 : end // 2]
        places = torch.stack((pairs >> 4, pairs & 15), dim=-1).flatten().int()
        of_number = torch.arange(begin, end) // state.block
        return (numbers[places] * largest[of_number]).view(-1, num_columns)

    return rows


def _bytes(layer: str, beside: Beside, read: Read) -> PackedWeight:
    shape = beside.matrix("I8")
    beside.needed(f"{layer}.SCB", FLOATS, shape[:1])
    roles = ["weight", "SCB"]
    if beside.has(name := f"{layer}.weight_format"):
        beside.needed(name, ("U8",), ())
        if read(name).item() != 0:
            raise beside.refusal(f"{name} says that the rows are not in order")
        roles.append("weight_format")
    parts = {role: f"{layer}.{role}" for role in roles}
    return PackedWeight(f"{layer}.weight", shape, parts, _integers, IntegerForm(8, 1, True, True))


def _integers(parts: Parts) -> GroupedIntegers:
    weight, scales = parts["weight"], parts["SCB"].float()[:, None] / _INT8
    zeros = torch.zeros_like(scales)
    return GroupedIntegers(lambda first, last: weight[first:last], scales, zeros, None)
