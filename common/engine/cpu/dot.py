"""Dot products of a few rows with a few others, all sums in registers, as a numba intrinsic.

bfloat16 uses the CPU's dot-product instruction where there is one (AVX512-BF16), else it is widened and
multiplied like float32; sums are float32 in either case.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder, Context, Values

SUMS = 16  # at most so many dot products at once: with their inputs they fill the registers


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no class for."""

    def _to_string(self) -> str:
        return "bfloat"


_HAS_BF16_DOT = bool(llvm.get_host_cpu_features().get("avx512bf16", False))
_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


@intrinsic(prefer_literal=True)
def dot_tile(ctx, x, x_at, w, w_at, depth, out, rows_x, rows_w):  # type: ignore[no-untyped-def]
    """out[i * rows_w + j] = x[row i] . w[row j] over `depth` numbers, a multiple of 2 * LANES.

    Rows of x and w follow one another, `depth` apart; rows_x * rows_w <= SUMS. Prefetches what the next
    call reads, when that starts SUMS rows of w further on.
    """
    n, m = emit.literal(rows_x), emit.literal(rows_w)
    sig = types.void(x, types.intp, w, types.intp, types.intp, out, rows_x, rows_w)
    uses_pairs = _HAS_BF16_DOT and x.dtype == types.uint16
    width = 2 * LANES if uses_pairs else LANES

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        x_data, w_data, out_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 5)
        )
        depth = args[4]
        sums = [emit.variable(builder, emit.constant(0.0)) for _ in range(n * m)]

        def row(data: Any, base: Any, index: int, offset: Any, array: types.Array) -> Any:
            at = builder.add(builder.add(base, builder.mul(emit.index(index), depth)), offset)
            if uses_pairs:
                return emit.aligned_load(builder, builder.gep(data, [at]), _PAIRS, 2)
            return emit.load(builder, data, at, array)

        with cgutils.for_range(builder, builder.udiv(depth, emit.index(width))) as loop:
            offset = builder.mul(loop.index, emit.index(width))
            right = [row(w_data, args[3], j, offset, sig.args[2]) for j in range(m)]
            for j in range(m):
                at = builder.add(
                    builder.add(args[3], builder.mul(emit.index(j + SUMS), depth)), offset
                )
                emit.prefetch(builder, w_data, at)
            for i in range(n):
                left = row(x_data, args[1], i, offset, sig.args[0])
                for j in range(m):
                    _accumulate(builder, sums[i * m + j], left, right[j], uses_pairs)
        totals = emit.reduce_many(builder, [builder.load(total) for total in sums])
        emit.store(builder, totals, out_data, emit.index(0))
        return context.get_dummy_value()

    return sig, generate


def _accumulate(builder: Builder, total: Any, left: Any, right: Any, uses_pairs: bool) -> None:
    if not uses_pairs:
        emit.add_product(builder, total, left, right)
        return
    kind = ir.FunctionType(emit.VECTOR, [emit.VECTOR, _PAIRS, _PAIRS])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.store(builder.call(function, [builder.load(total), left, right]), total)
