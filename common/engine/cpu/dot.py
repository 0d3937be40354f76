"""Dot products of a few rows with a few others, all sums in registers, as a numba intrinsic."""

from typing import Any

from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit, packed
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.packed import pack_of

SUMS = 16  # at most so many dot products at once: with their inputs they fill the registers


@intrinsic(prefer_literal=True)
def dot_tile(ctx, x, x_at, w, w_at, depth, out, rows_x, rows_w):  # type: ignore[no-untyped-def]
    """out[i * rows_w + j] = x[row i] . w[row j] over `depth` numbers, a multiple of 2 * LANES.

    Rows of x and w follow one another, `depth` apart; rows_x * rows_w <= SUMS. Prefetches what the next
    call reads, when that starts SUMS rows of w further on.
    """
    n, m = emit.literal(rows_x), emit.literal(rows_w)
    sig = types.void(x, types.intp, w, types.intp, types.intp, out, rows_x, rows_w)
    width = LANES * pack_of(x)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        x_data, w_data, out_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 5)
        )
        depth = args[4]
        sums = [emit.variable(builder, emit.constant(0.0)) for _ in range(n * m)]

        def row(data: Any, base: Any, index: int, offset: Any, array: types.Array) -> Any:
            at = builder.add(emit.multiply_add(builder, depth, index, base), offset)
            return packed.load(builder, data, at, array)

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
                    packed.add_product(builder, sums[i * m + j], left, right[j])
        totals = emit.reduce_many(builder, [builder.load(total) for total in sums])
        emit.store(builder, totals, out_data, emit.index(0))
        return context.get_dummy_value()

    return sig, generate
