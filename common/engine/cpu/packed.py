"""Products of packed vectors: each lane holds `pack` numbers that belong to one sum.

Numbers of two bytes lie in pairs. Where the CPU has a dot-product instruction for bfloat16 pairs
(AVX512-BF16), both operands are pairs. Elsewhere a pair is widened into two float32 vectors, each multiplied
by a float32 number of the other operand, which is kept in float32. So are four bytes, into four vectors.
float32 has pack 1. Sums are float32 always.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder
from common.engine.cpu.target import host_target

LINE_BYTES = 64
_PAIRS = ir.VectorType(emit.BFloat(), 2 * LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)

Parts = list[Any]


class Source(NamedTuple):
    """Stored numbers of an array, from an offset on."""

    data: Any
    base: Any
    array: types.Array


def pack_of(array: types.Array) -> int:
    """Return how many numbers a lane holds."""
    if array.dtype == types.float32:
        return 1
    return 4 if array.dtype == types.int8 else 2


def partner_of(storage: str) -> str:
    """Return the numpy name of the dtype whose numbers are multiplied with numbers of this storage.

    Those of int8 are float32: their scales are multiplied in later.
    """
    return storage if storage == "uint16" and host_target().has_bf16_dot else "float32"


def load(
    builder: Builder, data: Any, at: Any, array: types.Array, drop_second: bool = False
) -> Parts:
    """Load LANES * pack numbers; `drop_second` makes the second of each pair 0, whatever it is."""
    if pack_of(array) == 1:
        return [emit.load_f32(builder, data, at)]
    words = emit.aligned_load(builder, builder.gep(data, [at]), INTS, 2)
    if array.dtype == types.int8:
        return [_byte_of_words(builder, words, number) for number in range(4)]
    if _uses_dot(array):
        if drop_second:
            words = builder.and_(words, _alike(0xFFFF))
        return [builder.bitcast(words, _PAIRS)]
    low = _first_of_pairs(builder, words, array)
    return [low] if drop_second else [low, _second_of_pairs(builder, words, array)]


def load_part(builder: Builder, data: Any, at: Any, array: types.Array, part: int) -> Any:
    """Load a single one of the vectors that `load` gives."""
    return load(builder, data, at, array)[part]


def num_parts(array: types.Array) -> int:
    """Return how many vectors `load` gives for whole pairs."""
    return 1 if _uses_dot(array) else pack_of(array)


def broadcast(builder: Builder, data: Any, at: Any, array: types.Array, count: int) -> Parts:
    """Put the partners of `count` parts into every lane: a pair of bfloat16, or `count` float32 numbers."""
    if array.dtype == types.float32:
        spots = [builder.add(at, emit.index(part)) for part in range(count)]
        return [emit.splat(builder, builder.load(builder.gep(data, [spot]))) for spot in spots]
    pointer = builder.bitcast(builder.gep(data, [at]), emit.I32.as_pointer())
    words = emit.splat_as(builder, builder.load(pointer, align=2), INTS)
    return [builder.bitcast(words, _PAIRS)]


def prefetch_columns(builder: Builder, source: Source, row: Any, columns: range, pack: int) -> None:
    """Ask for the cache lines that begin in some columns, `pack` numbers each, of the row at an offset."""
    # a column has a word, but of values of int8 a byte
    in_line = LINE_BYTES // (1 if pack == 1 and source.array.dtype == types.int8 else 4)
    for column in columns:
        if column % in_line == 0:
            emit.prefetch(builder, source.data, builder.add(row, emit.index(column * pack)))


def broadcast_part(
    builder: Builder, source: Source, step: Any, offset: int, pack: int, part: int
) -> Any:
    """Put the partner of one part of a step's numbers, `pack` of them, into every lane."""
    at = emit.multiply_add(builder, step, pack, source.base)
    at = builder.add(at, emit.index(offset + part))
    (partner,) = broadcast(builder, source.data, at, source.array, 1)
    return partner


def add_product(builder: Builder, total: Any, left: Any, right: Any) -> None:
    """Add the products of one part with its partner to a variable's lanes."""
    if left.type != _PAIRS:
        emit.add_product(builder, total, left, right)
        return
    kind = ir.FunctionType(emit.VECTOR, [emit.VECTOR, _PAIRS, _PAIRS])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.store(builder.call(function, [builder.load(total), left, right]), total)


def _uses_dot(array: types.Array) -> bool:
    return host_target().has_bf16_dot and bool(array.dtype == types.uint16)


def _byte_of_words(builder: Builder, words: Any, number: int) -> Any:
    """Widen the signed byte of this number in every word, the lowest first."""
    highest = builder.shl(words, _alike(24 - 8 * number)) if number < 3 else words
    return builder.sitofp(builder.ashr(highest, _alike(24)), emit.VECTOR)


def _first_of_pairs(builder: Builder, words: Any, array: types.Array) -> Any:
    if array.dtype == types.uint16:
        return builder.bitcast(builder.shl(words, _alike(16)), emit.VECTOR)
    shorts = builder.trunc(words, emit.SHORTS)
    return builder.fpext(builder.bitcast(shorts, _HALVES), emit.VECTOR)


def _second_of_pairs(builder: Builder, words: Any, array: types.Array) -> Any:
    if array.dtype == types.uint16:
        return builder.bitcast(builder.and_(words, _alike(0xFFFF0000)), emit.VECTOR)
    shorts = builder.trunc(builder.lshr(words, _alike(16)), emit.SHORTS)
    return builder.fpext(builder.bitcast(shorts, _HALVES), emit.VECTOR)


def _alike(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)
