"""Products of packed vectors: each lane holds `pack` numbers that belong to one sum.

Numbers of two bytes lie in pairs. bfloat16 pairs go to the CPU's dot-product instruction where there is one
(AVX512-BF16); else a pair is split into two float32 vectors. float32 has pack 1. Sums are float32 always.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder

HAS_BF16_DOT = bool(llvm.get_host_cpu_features().get("avx512bf16", False))
_PAIRS = ir.VectorType(emit.BFloat(), 2 * LANES)
_SHORTS = ir.VectorType(ir.IntType(16), 2 * LANES)

Parts = list[Any]


def pack_of(array: types.Array) -> int:
    """Numbers in a lane."""
    return 1 if array.dtype == types.float32 else 2


def uses_dot(array: types.Array) -> bool:
    """Whether products of this storage run on the dot-product instruction."""
    return HAS_BF16_DOT and array.dtype == types.uint16


def load(
    builder: Builder, data: Any, at: Any, array: types.Array, drop_second: bool = False
) -> Parts:
    """LANES * pack numbers; with `drop_second` the second of each pair reads as zero, whatever it holds."""
    if pack_of(array) == 1:
        return [emit.load_f32(builder, data, at)]
    words = emit.aligned_load(builder, builder.gep(data, [at]), emit.INTS, 2)
    if drop_second:
        words = builder.and_(words, ir.Constant(emit.INTS, [0xFFFF] * LANES))
    return _parts(builder, words, array)


def broadcast(builder: Builder, data: Any, at: Any, array: types.Array) -> Parts:
    """`pack` numbers in every lane."""
    if pack_of(array) == 1:
        return [emit.splat(builder, builder.load(builder.gep(data, [at])))]
    pointer = builder.bitcast(builder.gep(data, [at]), emit.I32.as_pointer())
    return _parts(builder, emit.splat_as(builder, builder.load(pointer, align=2), emit.INTS), array)


def add_product(builder: Builder, total: Any, left: Parts, right: Parts) -> None:
    """Add the products of corresponding numbers to a variable's lanes."""
    if left[0].type == _PAIRS:
        kind = ir.FunctionType(emit.VECTOR, [emit.VECTOR, _PAIRS, _PAIRS])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.store(builder.call(function, [builder.load(total), left[0], right[0]]), total)
        return
    for a, b in zip(left, right, strict=True):
        emit.add_product(builder, total, a, b)


def _parts(builder: Builder, words: Any, array: types.Array) -> Parts:
    if uses_dot(array):
        return [builder.bitcast(words, _PAIRS)]
    number = ir.HalfType() if array.dtype == types.int16 else emit.BFloat()
    kind = ir.VectorType(number, LANES)
    shorts = builder.bitcast(words, _SHORTS)
    nothing = ir.Constant(_SHORTS, ir.Undefined)
    parts = []
    for first in (0, 1):
        lanes = ir.Constant(emit.INTS, list(range(first, 2 * LANES, 2)))
        half = builder.bitcast(builder.shuffle_vector(shorts, nothing, lanes), kind)
        parts.append(builder.fpext(half, emit.VECTOR))
    return parts
