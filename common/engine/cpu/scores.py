"""Scores of queries against one block of keys, as a numba intrinsic.

A score has the same bits in any tile: alone in a decode step, or beside eleven others in a chunk. So the
order of its sum follows from the shape of the model, and never from the rows of the tile.
"""

from typing import Any

from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit, kv_levels, packed
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.packed import Source, pack_of
from common.engine.cpu.softmax import TILE
from common.engine.cpu.target import host_target


def num_score_parts(rows: int, steps: int) -> int:
    """Return how many parts to cut a score's sum of `steps` into, so that `rows` rows fill the registers.

    Few rows make few independent sums, and then the adder's latency decides the time.
    """
    most = host_target().attention_rows
    return next(k for k in (8, 4, 2, 1) if k * rows <= most and steps % k == 0)


@intrinsic(prefer_literal=True)
def score_block(ctx, q, q_at, keys, k_at, ahead, scale, s, s_at, rows, dim, size, parts):  # type: ignore[no-untyped-def]
    """s[r, 0:size] = scale * q[r, 0:dim] . keys of one block [dim / pack, size, pack], for `rows` rows.

    Behind keys of int8 lie their scales [size] (kv_levels.py). Meanwhile the memory is asked for the block
    of keys at `ahead`, unless that is None.

    Part k of a sum has the words k, k + parts, ... of `dim`; then the parts are added up in order. So a
    score depends on `parts` and not on `rows`, whose sums are made as many at a time as registers hold.
    """
    n, steps, width = emit.literal(rows), emit.literal(dim) // pack_of(keys), emit.literal(size)
    splits, i64, f32 = emit.literal(parts), types.intp, types.float32
    beside = min(num_score_parts(n, steps), splits)
    sig = types.void(q, i64, keys, i64, ahead, f32, s, i64, rows, dim, size, parts)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        q_data, k_data, s_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 6)
        )
        left = Source(q_data, args[1], sig.args[0])
        most = max(host_target().score_sums // (n * beside), 1) * LANES
        for start in range(0, width, most):
            vectors = range(start, min(start + most, width), LANES)
            blocks = [
                Source(k_data, builder.add(args[3], emit.index(v * pack_of(keys))), keys)
                for v in vectors
            ]
            next_block = None if start or ahead == types.none else args[4]
            kv_levels.ask_for_scales(builder, blocks[0], next_block, emit.literal(dim) * width)
            totals: list[Any] = []
            for first in range(0, splits, beside):
                zeros = [emit.constant(0.0)] * (n * beside * len(blocks))
                sums = [emit.variable(builder, zero) for zero in zeros]
                shape, own = (steps, width, n), (first, splits)
                _add_scores(builder, left, blocks, shape, own, sums, next_block)
                totals = _sum_up(builder, totals, sums, n * len(blocks))
            at = builder.add(args[7], emit.index(start))
            _store_scores(builder, totals, blocks, (emit.literal(dim), width), args[5], s_data, at)
        return context.get_dummy_value()

    return sig, generate


def _store_scores(
    builder: Builder,
    totals: list[Any],
    blocks: list[Source],
    sizes: tuple[int, int],
    scale: Any,
    data: Any,
    at: Any,
) -> None:
    """Store scale * totals[row, vector] in rows of TILE scores, for vectors side by side."""
    for i, total in enumerate(totals):
        row, v = divmod(i, len(blocks))
        product = kv_levels.scaled(builder, total, blocks[v], *sizes)
        scaled = builder.fmul(product, emit.splat(builder, scale))
        emit.store(builder, scaled, data, builder.add(at, emit.index(row * TILE + v * LANES)))


def _add_scores(
    builder: Builder,
    q: Source,
    blocks: list[Source],
    shape: tuple[int, int, int],
    parts: tuple[int, int],
    sums: list[Any],
    ahead: Any,
) -> None:
    """Add the products of some parts, the first and so on of all, to sums[part, row, vector]."""
    (steps, width, rows), (first, splits) = shape, parts
    array = blocks[0].array
    pack, each = pack_of(array), len(blocks)
    with cgutils.for_range(builder, emit.index(steps // splits)) as loop:
        for k in range(len(sums) // (rows * each)):
            step = emit.multiply_add(builder, loop.index, splits, emit.index(first + k))
            if ahead is not None:
                row = emit.multiply_add(builder, step, width * pack, ahead)
                packed.prefetch_columns(builder, blocks[0], row, range(0, width, LANES), pack)
            spots = [emit.multiply_add(builder, step, width * pack, keys.base) for keys in blocks]
            for number in range(packed.num_parts(array)):
                emit.keep_order(builder)
                vectors = [
                    packed.load_part(builder, blocks[0].data, at, array, number) for at in spots
                ]
                for r in range(rows):
                    partner = packed.broadcast_part(
                        builder, q, step, r * steps * pack, pack, number
                    )
                    for v, key in enumerate(vectors):
                        total = sums[(k * rows + r) * each + v]
                        packed.add_product(builder, total, partner, key)


def _sum_up(builder: Builder, totals: list[Any], sums: list[Any], rows: int) -> list[Any]:
    """Return each row's total, to which sums[part, row] are added in the order of parts."""
    found = [builder.load(part) for part in sums]
    for k in range(0, len(found), rows):
        part = found[k : k + rows]
        totals = list(map(builder.fadd, totals, part)) if totals else part
    return totals
