"""Reading of 8-bit keys and values in blocks, in the making of attention kernels.

memory/quantized_kv.py says what a number stands for. Of a head, a block's keys are words of 4 channels, each
word of all positions side by side, and behind them the positions' scales. Its values are rows of positions,
each with its scale behind its numbers. A scale is multiplied into the finished score, and into the weight.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder
from common.engine.cpu.packed import Source, prefetch_columns
from common.engine.cpu.softmax import TILE

SCALE_BYTES = 4  # behind a head's numbers
_BYTES = ir.VectorType(ir.IntType(8), LANES)


def tail_of(storage: str) -> int:
    """Return the elements behind a position's channels, in blocks of a numpy dtype."""
    return SCALE_BYTES if storage == "int8" else 0


def scaled(builder: Builder, total: Any, keys: Source, channels: int, size: int) -> Any:
    """Multiply the sums of LANES positions, of which `keys` begins with the first, by their keys' scales."""
    if keys.array.dtype != types.int8:
        return total
    at = builder.add(keys.base, emit.index(channels * size))
    scales = emit.aligned_load(builder, builder.gep(keys.data, [at]), emit.VECTOR, 4)
    return builder.fmul(total, scales)


def ask_for_scales(builder: Builder, keys: Source, ahead: Any | None, numbers: int) -> None:
    """Ask the memory for scales, if there are any, behind so many numbers of the block of keys at `ahead`."""
    if ahead is not None and keys.array.dtype == types.int8:
        emit.prefetch(builder, keys.data, builder.add(ahead, emit.index(numbers)))


def add_values(
    builder: Builder,
    count: Any,
    weights: Source,
    block: Source,
    dim: int,
    columns: range,
    sums: list[Any],
    ahead: Any,
) -> None:
    """Add `count` positions, each with its float32 weight of a row, to sums[row, column]."""
    if ahead is not None:
        last = emit.multiply_add(builder, count, dim + SCALE_BYTES, ahead)
        emit.prefetch(builder, block.data, builder.sub(last, emit.index(1)))
    with cgutils.for_range(builder, count) as loop:
        row_at = emit.multiply_add(builder, loop.index, dim + SCALE_BYTES, block.base)
        if ahead is not None:
            row = emit.multiply_add(builder, loop.index, dim + SCALE_BYTES, ahead)
            prefetch_columns(builder, block, row, columns, 1)
        scale = _scale_at(builder, block.data, builder.add(row_at, emit.index(dim)))
        loaded = [
            _widened(builder, block.data, builder.add(row_at, emit.index(c))) for c in columns
        ]
        for r in range(len(sums) // len(loaded)):
            at = builder.add(builder.add(weights.base, loop.index), emit.index(r * TILE))
            weight = builder.fmul(builder.load(builder.gep(weights.data, [at])), scale)
            everywhere = emit.splat(builder, weight)
            for c, value in enumerate(loaded):
                emit.add_product(builder, sums[r * len(loaded) + c], everywhere, value)


def _scale_at(builder: Builder, data: Any, at: Any) -> Any:
    pointer = builder.bitcast(builder.gep(data, [at]), emit.F32.as_pointer())
    return builder.load(pointer, align=SCALE_BYTES)


def _widened(builder: Builder, data: Any, at: Any) -> Any:
    levels = emit.aligned_load(builder, builder.gep(data, [at]), _BYTES, 1)
    return builder.sitofp(builder.sext(levels, emit.INTS), emit.VECTOR)
