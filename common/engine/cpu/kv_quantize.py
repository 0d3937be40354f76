"""Kernel that makes 8-bit integers of a step's keys and values, with the bits of quantized_kv.INT8."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.arrays import as_array
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.kv_store import KVStore, MakeCall, Slots
from common.engine.cpu.parallel import in_parallel
from common.kv_transfer.quantized import LEVELS_OF_WORD, SCALE_PER_SIZE, SMALLEST_SCALE

_BYTES = ir.VectorType(ir.IntType(8), LANES)


class QuantizedStore:
    """KVStore for blocks of words, which it makes of a step's numbers first."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take `keys` and `values` as PackedStorage describes them, of words."""
        self._store = KVStore(keys, values)
        # one for all layers, since each step's words are stored before the next layer's are made
        self._scratch: dict[tuple[int, torch.Size], torch.Tensor] = {}

    def put(
        self, call: MakeCall, layer: int, key: torch.Tensor, value: torch.Tensor, slots: Slots
    ) -> None:
        """Store `key` and `value` [T, kv_heads, dim]; see KVStore.put."""
        words = [self._words(place, x) for place, x in enumerate((key, value))]
        numbers = as_array(key), as_array(value)
        quantize = _quantize_kernel(key.shape[2], value.shape[2], numbers[0].dtype.name)
        call(quantize, *numbers, *(as_array(x).view(np.int8) for x in words))
        self._store.put(call, layer, words[0], words[1], slots)

    def _words(self, place: int, numbers: torch.Tensor) -> torch.Tensor:
        """Return memory for the words of keys (`place` 0) or values (1), of which others may have a part."""
        tokens, of_token = len(numbers), numbers.shape[1:]
        kept = self._scratch.get((place, of_token))
        if kept is None or len(kept) < tokens:
            shape = (tokens, of_token[0], of_token[1] // LEVELS_OF_WORD + 1)
            kept = self._scratch[place, of_token] = torch.empty(shape, dtype=torch.int32)
        return kept[:tokens]


@lru_cache(maxsize=16)
def _quantize_kernel(key_dim: int, value_dim: int, storage: str) -> Callable[..., None]:
    """Compile (once per machine, on disk) the kernel for heads of so many channels, multiples of LANES."""
    variant = f"{key_dim}-{value_dim}-{storage}"

    @part(variant=variant)
    def quantize_some(first, end, key, value, key_bytes, value_bytes):  # type: ignore[no-untyped-def]
        heads = key.shape[1]
        for work in range(first, end):
            row, head = work // heads, work % heads
            quantize_row(key[row, head], key_bytes[row, head], key_dim)
            quantize_row(value[row, head], value_bytes[row, head], value_dim)

    @kernel(variant=variant, signature=_signature(storage))
    def quantize(key, value, key_bytes, value_bytes):  # type: ignore[no-untyped-def]
        # key [T, heads, key_dim], a head's numbers side by side; key_bytes [T, heads, key_dim + 4]
        given = key, value, key_bytes, value_bytes
        in_parallel(key.shape[0] * key.shape[1], quantize_some, given)

    return quantize


def _signature(storage: str) -> types.Type:
    numbers = types.Array(numba.from_dtype(np.dtype(storage)), 3, "A")
    levels = types.Array(types.int8, 3, "C")
    return types.void(numbers, numbers, levels, levels)


@intrinsic(prefer_literal=True)
def quantize_row(ctx, row, out, count):  # type: ignore[no-untyped-def]
    """out[0:count] = the levels of row[0:count], and behind them the bytes of their scale.

    `row` must be contiguous, whatever its type says.
    """
    numbers = emit.literal(count)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        source, target = (emit.array_data(context, builder, sig, args, i) for i in (0, 1))
        offsets = [emit.index(offset) for offset in range(0, numbers, LANES)]
        vectors = [emit.load(builder, source, offset, sig.args[0]) for offset in offsets]
        scale = builder.fmul(_largest_size(builder, vectors), _f32(SCALE_PER_SIZE))
        is_zero = builder.fcmp_ordered("<", scale, _f32(SMALLEST_SCALE))
        scale = builder.select(is_zero, _f32(0.0), scale)
        for offset, vector in zip(offsets, vectors, strict=True):
            levels = _levels(builder, vector, scale)
            pointer = builder.bitcast(builder.gep(target, [offset]), _BYTES.as_pointer())
            builder.store(levels, pointer, align=1)
        end = builder.gep(target, [emit.index(numbers)])
        builder.store(scale, builder.bitcast(end, emit.F32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(row, out, count), generate


def _largest_size(builder: Builder, vectors: list[Any]) -> Any:
    """Return the largest absolute value, or NaN: as integers, the bits of sizes are in their order."""
    largest = ir.Constant(emit.INTS, [0] * LANES)
    no_sign = ir.Constant(emit.INTS, [0x7FFFFFFF] * LANES)
    for vector in vectors:
        size = builder.and_(builder.bitcast(vector, emit.INTS), no_sign)
        largest = _larger_integer(builder, largest, size)
    return builder.bitcast(emit.across(builder, largest, _larger_integer), emit.F32)


def _larger_integer(builder: Builder, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _levels(builder: Builder, vector: Any, scale: Any) -> Any:
    """Return vector / scale, rounded, as bytes; 0 for NaN and where the scale is 0 or NaN."""
    zero = emit.constant(0.0)
    ratio = builder.fdiv(vector, emit.splat(builder, scale))
    is_number = builder.fcmp_ordered("ord", ratio, ratio)
    is_used = builder.fcmp_ordered(">=", scale, _f32(SMALLEST_SCALE))
    ratio = builder.select(is_used, builder.select(is_number, ratio, zero), zero)
    rounded = emit.call(builder, "llvm.rint", [ratio])
    return builder.trunc(builder.fptosi(rounded, emit.INTS), _BYTES)


def _f32(value: float) -> Any:
    return ir.Constant(emit.F32, float(np.float32(value)))
