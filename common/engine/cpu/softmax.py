"""Running softmax of FlashAttention (Dao et al. 2022) over one tile of scores, as a numba intrinsic."""

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import BaseTuple
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.score_extras import RowForm, row_form

TILE = 64  # key positions between two updates; a row of scores and of weights has this stride
LOWEST_PEAK = -1e29  # a row's maximum before it saw a key
_MASKED = -1e30  # below it: the weight of a masked score is exactly 0


@intrinsic(prefer_literal=True)
def softmax_rows(ctx, s, ends, r, first_key, form, p, acc, peak, norm, rows, dim):  # type: ignore[no-untyped-def]
    """Turn scores s [rows, TILE] into weights p, in p's dtype, for rows r to r + rows of a work item.

    Row i sees the positions below ends[i], and only the last ones of its window. `form` is the window of all
    rows, or a tuple with extras (score_extras.py), which change scores first. Where a row's maximum rises,
    acc[i, 0:dim] and norm[i, 0:LANES], which hold what earlier tiles gave, are scaled to it. A row's sum of
    weights is that of its lanes. NaN stays NaN.
    """
    num_rows, channels = emit.literal(rows), emit.literal(dim)
    i64 = types.intp
    kind = form if isinstance(form, BaseTuple) else i64
    sig = types.void(s, ends, i64, i64, kind, p, acc, peak, norm, rows, dim)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        arrays = {i: emit.array_data(context, builder, sig, args, i) for i in (0, 1, 5, 6, 7, 8)}
        with cgutils.for_range(builder, emit.index(num_rows)) as loop:
            row = builder.add(args[2], loop.index)
            end = builder.sub(builder.load(builder.gep(arrays[1], [row])), args[3])
            at = builder.mul(loop.index, emit.index(TILE))
            own = row_form(context, builder, sig, args, 4, row)
            start = builder.sub(end, own.window)
            start = builder.select(  # also keeps a window of any width within 32 bits
                builder.icmp_signed("<", start, emit.index(0)), emit.index(0), start
            )
            scores = _load_masked(builder, arrays[0], at, start, end, own)
            acc_at, norm_at = (builder.mul(row, emit.index(n)) for n in (channels, LANES))
            sums = ((arrays[6], acc_at, channels), (arrays[8], norm_at, LANES))
            highest = _raise_peak(builder, scores, builder.gep(arrays[7], [row]), sums)
            total = emit.load_f32(builder, arrays[8], norm_at)
            for v, score in enumerate(scores):
                weight = emit.exp(builder, builder.fsub(score, highest))
                here = builder.add(at, emit.index(v * LANES))
                emit.store_as(builder, weight, arrays[5], here, sig.args[5], is_normal=True)
                total = builder.fadd(total, weight)
            emit.store(builder, total, arrays[8], norm_at)
        return context.get_dummy_value()

    return sig, generate


@intrinsic(prefer_literal=True)
def merge_row(ctx, acc, peak, norm, r, total, total_peak, total_norm, row, dim):  # type: ignore[no-untyped-def]
    """Add row r of a segment's sums to a row of totals: acc [.., dim], maxima, norm [.., LANES].

    Both are scaled to the larger maximum. A segment of which a row saw nothing changes no bit of it.
    """
    channels, i64 = emit.literal(dim), types.intp
    sig = types.void(acc, peak, norm, i64, total, total_peak, total_norm, i64, dim)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        parts, peaks, norms, totals, total_peaks, total_norms = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 1, 2, 4, 5, 6)
        )
        own_at, peak_at = (
            builder.gep(data, [args[i]]) for data, i in ((peaks, 3), (total_peaks, 7))
        )
        own, before = builder.load(own_at), builder.load(peak_at)
        highest = builder.select(builder.fcmp_ordered(">", own, before), own, before)
        builder.store(highest, peak_at)
        rise, fall = (
            emit.exp(builder, emit.splat(builder, builder.fsub(number, highest)))
            for number in (own, before)
        )
        for source, target, count in ((parts, totals, channels), (norms, total_norms, LANES)):
            for offset in range(0, count, LANES):
                at, to = (
                    emit.multiply_add(builder, args[i], count, emit.index(offset)) for i in (3, 7)
                )
                kept = builder.fmul(emit.load_f32(builder, target, to), fall)
                added = [emit.load_f32(builder, source, at), rise, kept]
                emit.store(builder, emit.call(builder, "llvm.fma", added), target, to)
        return context.get_dummy_value()

    return sig, generate


def _load_masked(
    builder: Builder, data: Any, at: Any, start: Any, end: Any, form: RowForm
) -> list[Any]:
    """Load a row's scores, changed by its form; masked outside [start, end) of the tile, which few need."""
    scores = [
        emit.variable(builder, emit.load_f32(builder, data, builder.add(at, emit.index(first))))
        for first in range(0, TILE, LANES)
    ]
    form.change(builder, scores, end)
    is_whole = builder.and_(
        builder.icmp_signed("<=", start, emit.index(0)),
        builder.icmp_signed(">=", end, emit.index(TILE)),
    )
    with builder.if_then(builder.not_(is_whole), likely=False):
        low, high = (
            emit.splat_as(builder, builder.trunc(bound, emit.I32), emit.INTS)
            for bound in (start, end)
        )
        for v, score in enumerate(scores):
            lanes = ir.Constant(emit.INTS, list(range(v * LANES, (v + 1) * LANES)))
            is_seen = builder.and_(
                builder.icmp_signed(">=", lanes, low), builder.icmp_signed("<", lanes, high)
            )
            masked = builder.select(is_seen, builder.load(score), emit.constant(_MASKED))
            builder.store(masked, score)
    return [builder.load(score) for score in scores]


def _largest(builder: Builder, vectors: list[Any]) -> Any:
    """Return the largest number; NaN is passed over."""
    largest = emit.constant(_MASKED)
    for vector in vectors:
        largest = emit.larger(builder, vector, largest)
    return emit.across(builder, largest, emit.larger)


def _raise_peak(
    builder: Builder, scores: list[Any], peak_at: Any, sums: Iterable[tuple[Any, Any, int]]
) -> Any:
    """Return the row's maximum after this tile, in every lane; scale sums made under a lower one."""
    tile_peak = _largest(builder, scores)
    rises = builder.fcmp_ordered(">", tile_peak, builder.load(peak_at))
    with builder.if_then(rises, likely=False):
        fall = emit.splat(builder, builder.fsub(builder.load(peak_at), tile_peak))
        builder.store(tile_peak, peak_at)
        factor = emit.exp(builder, fall)
        for data, base, count in sums:
            _scale(builder, data, base, count, factor)
    return emit.splat(builder, builder.load(peak_at))


def _scale(builder: Builder, data: Any, base: Any, count: int, factor: Any) -> None:
    for offset in range(0, count, LANES):
        at = builder.add(base, emit.index(offset))
        emit.store(builder, builder.fmul(emit.load_f32(builder, data, at), factor), data, at)
