"""Matrix products by panels, as numba intrinsics.

A panel is WIDTH rows of weights, transposed: word k of each, side by side. A word is 32 bits of a row, so
`pack` numbers (packed.py). A vector of weights and the partners of one word give products for LANES outputs:
nothing has to be summed across lanes. (The scheme of BLIS, Van Zee and van de Geijn 2015, with one operand
packed.) x is held as packed.partner_of says: in pairs for the dot-product instruction, else in float32.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit, packed
from common.engine.cpu.activation import GELU_TANH, gated
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.packed import pack_of
from common.engine.cpu.target import host_target

PLAIN = -1  # no activation; beside SILU and GELU_TANH
WIDTH = 2 * LANES  # outputs of a panel
TILE_ROWS = host_target().tile_rows
# panels lie one behind the other, so that the next one is fetched while this one is used
_AHEAD_WORDS = 2048


@intrinsic
def lay_out(ctx, rows, at, words, panel, panel_at, width):  # type: ignore[no-untyped-def]
    """panel[k, 0:LANES] = word k of LANES rows, `words` apart, for LANES words from `at` on; all uint32.

    Rows of `panel` are `width` apart.
    """
    sig = types.void(rows, types.intp, types.intp, panel, types.intp, types.intp)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        source, target = (emit.array_data(context, builder, sig, args, i) for i in (0, 3))
        vectors = []
        for row in range(LANES):
            first = emit.multiply_add(builder, args[2], row, args[1])
            vectors.append(emit.aligned_load(builder, builder.gep(source, [first]), emit.INTS, 4))
        for word, vector in enumerate(transposed(builder, vectors)):
            spot = builder.gep(target, [emit.multiply_add(builder, args[5], word, args[4])])
            builder.store(vector, builder.bitcast(spot, emit.INTS.as_pointer()), align=4)
        return context.get_dummy_value()

    return sig, generate


def transposed(builder: Builder, vectors: list[Any], unit: int = 1) -> list[Any]:
    """Transpose LANES / unit vectors, in rounds that exchange halves of ever larger runs.

    What trades places is `unit` lanes side by side.
    """
    run = unit
    while run < LANES:
        kept = [lane if not lane & run else LANES + (lane ^ run) for lane in range(LANES)]
        moved = [lane | run if not lane & run else LANES + lane for lane in range(LANES)]
        step = run // unit
        for i in (i for i in range(len(vectors)) if not i & step):
            pair = vectors[i], vectors[i + step]
            vectors[i], vectors[i + step] = (
                emit.shuffle(builder, *pair, lanes) for lanes in (kept, moved)
            )
        run *= 2
    return vectors


@intrinsic(prefer_literal=True)
def panel_tile(ctx, x, x_at, depth, panels, panel_at, bias, out, out_at, out_width, rows, kind):  # type: ignore[no-untyped-def]
    """out[i, 0:WIDTH] = x[row i] . panel + bias[0:WIDTH] for `rows` rows of x, one behind the other.

    Each sum adds its products in the order of `depth`, whatever `rows` is. With `kind` SILU or GELU_TANH
    instead of PLAIN, out[i, 0:LANES] = act(the first LANES of them) * the others.
    """
    num_rows = emit.literal(rows)
    i64 = types.intp
    sig = types.void(x, i64, i64, panels, i64, bias, out, i64, i64, rows, kind)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        x_data, weights, biases, out_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 3, 5, 6)
        )
        columns = [emit.index(column) for column in range(0, WIDTH, LANES)]
        starts = [emit.load_f32(builder, biases, column) for column in columns]
        sums = [[emit.variable(builder, start) for start in starts] for _ in range(num_rows)]
        left = _Rows(x_data, args[1], args[2], sig.args[0])
        _add_products(builder, left, _Panel(weights, args[4], sig.args[3]), sums)
        for i, row in enumerate(sums):
            first = emit.multiply_add(builder, args[8], i, args[7])
            results = _results(builder, row, emit.literal(kind))
            for column, result in zip(columns, results, strict=False):
                at = builder.add(first, column)
                emit.store_as(builder, result, out_data, at, sig.args[6])
        return context.get_dummy_value()

    return sig, generate


def _results(builder: Builder, row: list[Any], kind: int) -> list[Any]:
    sums = [builder.load(total) for total in row]
    return sums if kind == PLAIN else [gated(builder, sums[0], sums[1], kind == GELU_TANH)]


class _Rows(NamedTuple):
    """Rows of x, one behind the other."""

    data: Any
    first: Any
    depth: Any
    array: types.Array


class _Panel(NamedTuple):
    data: Any
    first: Any
    array: types.Array


def _add_products(builder: Builder, x: _Rows, panel: _Panel, sums: list[list[Any]]) -> None:
    pack = pack_of(panel.array)
    ahead = emit.index(_AHEAD_WORDS * pack)
    always = opaque_truth(builder)
    with cgutils.for_range(builder, builder.udiv(x.depth, emit.index(pack))) as loop:
        word = builder.mul(loop.index, emit.index(pack))
        base = emit.multiply_add(builder, loop.index, WIDTH * pack, panel.first)
        columns = (emit.index(column * pack) for column in range(0, WIDTH, LANES))
        spots = [builder.add(base, column) for column in columns]
        for spot in spots:
            emit.prefetch(builder, panel.data, builder.add(spot, ahead))
        _add_part(builder, x, word, panel, spots, sums, 0)
        for part in range(1, packed.num_parts(panel.array)):
            # in a block of its own: LLVM's scheduler would put both parts' loads before all products
            with builder.if_then(always):
                _add_part(builder, x, word, panel, spots, sums, part)


def _add_part(
    builder: Builder,
    x: _Rows,
    word: Any,
    panel: _Panel,
    spots: list[Any],
    sums: list[list[Any]],
    part: int,
) -> None:
    """Add the products of one part of a word. Its weights are loaded here: registers hold no more."""
    right = [packed.load_part(builder, panel.data, spot, panel.array, part) for spot in spots]
    for i, row in enumerate(sums):
        start = emit.multiply_add(builder, x.depth, i, x.first)
        emit.keep_order(builder)
        at = builder.add(builder.add(start, word), emit.index(part))
        (left,) = packed.broadcast(builder, x.data, at, x.array, 1)
        for total, weight in zip(row, right, strict=True):
            packed.add_product(builder, total, left, weight)


def opaque_truth(builder: Builder) -> Any:
    """Make a condition that always holds, which LLVM cannot know."""
    number = ir.IntType(64)
    kind = ir.FunctionType(number, [number])
    one = builder.call(ir.InlineAsm(kind, "", "=r,0"), [emit.index(1)])
    return builder.icmp_unsigned("!=", one, emit.index(0))
