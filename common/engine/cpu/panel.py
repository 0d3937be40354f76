"""Matrix products by panels, as numba intrinsics: a panel of weights is laid out once and meets every row.

A panel is WIDTH rows of w, transposed: word k of each, side by side. A word is 32 bits of a row, so `pack`
numbers (packed.py). A vector of weights and one word of x give products for LANES outputs: nothing has to
be summed across lanes. (The scheme of BLIS, Van Zee and van de Geijn 2015, with one operand packed.)
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit, packed
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.packed import pack_of

WIDTH = 2 * LANES  # outputs of a panel
TILE_ROWS = 12  # rows at once: with WIDTH their sums fill the 32 registers of AVX-512 but for a few
HAS_REGISTERS = bool(llvm.get_host_cpu_features().get("avx512f", False))


@intrinsic
def lay_out(ctx, w, w_at, depth, panel, panel_at):  # type: ignore[no-untyped-def]
    """panel[k, 0:LANES] = word k of LANES rows of w, `depth` numbers apart, for LANES words from w_at on.

    A transposition in the registers, whose rounds exchange halves of ever larger runs.
    """
    sig = types.void(w, types.intp, types.intp, panel, types.intp)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        source, target = (emit.array_data(context, builder, sig, args, i) for i in (0, 3))
        vectors = []
        for row in range(LANES):
            at = emit.multiply_add(builder, args[2], row, args[1])
            vectors.append(emit.aligned_load(builder, builder.gep(source, [at]), emit.INTS, 2))
        for word, vector in enumerate(_transposed(builder, vectors)):
            at = builder.add(args[4], emit.index(word * WIDTH * pack_of(sig.args[0])))
            pointer = builder.bitcast(builder.gep(target, [at]), emit.INTS.as_pointer())
            builder.store(vector, pointer, align=2)
        return context.get_dummy_value()

    return sig, generate


def _transposed(builder: Builder, vectors: list[Any]) -> list[Any]:
    run = 1
    while run < LANES:
        kept = [lane if not lane & run else LANES + (lane ^ run) for lane in range(LANES)]
        moved = [lane | run if not lane & run else LANES + lane for lane in range(LANES)]
        for i in (i for i in range(LANES) if not i & run):
            pair = vectors[i], vectors[i + run]
            vectors[i], vectors[i + run] = (
                emit.shuffle(builder, *pair, lanes) for lanes in (kept, moved)
            )
        run *= 2
    return vectors


@intrinsic(prefer_literal=True)
def panel_tile(ctx, x, x_at, depth, panel, bias, out, out_at, out_width, rows):  # type: ignore[no-untyped-def]
    """out[i, 0:WIDTH] = x[row i] . panel + bias[0:WIDTH] for `rows` rows of x, one behind the other.

    Each sum adds its products in the order of `depth`, whatever `rows` is.
    """
    num_rows = emit.literal(rows)
    i64 = types.intp
    sig = types.void(x, i64, i64, panel, bias, out, i64, i64, rows)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        x_data, weights, biases, out_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 3, 4, 5)
        )
        columns = [emit.index(column) for column in range(0, WIDTH, LANES)]
        starts = [emit.load_f32(builder, biases, column) for column in columns]
        sums = [[emit.variable(builder, start) for start in starts] for _ in range(num_rows)]
        left = _Rows(x_data, args[1], args[2], sig.args[0])
        _add_products(builder, left, weights, sig.args[3], sums)
        for i, row in enumerate(sums):
            first = emit.multiply_add(builder, args[7], i, args[6])
            for column, total in zip(columns, row, strict=True):
                at = builder.add(first, column)
                emit.store_as(builder, builder.load(total), out_data, at, sig.args[5])
        return context.get_dummy_value()

    return sig, generate


class _Rows(NamedTuple):
    """Rows of x, one behind the other."""

    data: Any
    first: Any
    depth: Any
    array: types.Array


def _add_products(
    builder: Builder, x: _Rows, weights: Any, panel: types.Array, sums: list[list[Any]]
) -> None:
    pack = pack_of(panel)
    starts = [emit.multiply_add(builder, x.depth, i, x.first) for i, _ in enumerate(sums)]
    with cgutils.for_range(builder, builder.udiv(x.depth, emit.index(pack))) as loop:
        word = builder.mul(loop.index, emit.index(pack))
        base = builder.mul(loop.index, emit.index(WIDTH * pack))
        right = []
        for column in range(0, WIDTH, LANES):
            at = builder.add(base, emit.index(column * pack))
            right.append(packed.load(builder, weights, at, panel))
        for start, row in zip(starts, sums, strict=True):
            _keep_order(builder)
            left = packed.broadcast(builder, x.data, builder.add(start, word), x.array)
            for total, weight in zip(row, right, strict=True):
                packed.add_product(builder, total, left, weight)


def _keep_order(builder: Builder) -> None:
    """Loads stay behind this. LLVM would do them all first, and sums would leave the registers for them."""
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.call(ir.InlineAsm(kind, "", "~{memory}", side_effect=True), [])
