"""Products of rows of 16-bit integers with panels of small integers, as a numba intrinsic.

A panel is words for WIDTH rows: four levels of 8 bits [K / 4, WIDTH], or eight of 4 bits [K / 8, WIDTH].
Where a CPU multiplies bytes and sums four of them in one instruction (AVX512-VNNI), that does the work of
eight instructions of quantized_panel.py. Elsewhere one multiplies and sums pairs of 16-bit integers, and does
the work of four (AVX2, AVX-512). Both want levels without a sign. So signed ones of 8 bits are held with 128
added, and to those of 4 bits 8 is added here. What that adds to a sum is where the sum begins.

A group's sum is exact, so a result does not depend on the number of rows. Then total += scale * sum, fused.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.activation import GELU_TANH, gated
from common.engine.cpu.emit import INTS, Builder, Context, Values
from common.engine.cpu.group_scales import COLUMNS, load_scales
from common.engine.cpu.integer_dots import alike
from common.engine.cpu.integer_levels import WordPanel, levels_of, panel_of, prefetch_words
from common.engine.cpu.panel import PLAIN, WIDTH, opaque_truth
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP, NIBBLES_IN_WORD

_ADDED = {BYTES_IN_WORD: 128, NIBBLES_IN_WORD: 8}  # to signed levels


class _Rows(NamedTuple):
    """Rows of x as integers, and numbers of their groups."""

    digits: Any
    scales: Any
    sums: Any
    offsets: Any
    first: Any  # number of x
    depth: Any


@intrinsic(prefer_literal=True)
def integer_tile(  # type: ignore[no-untyped-def]
    ctx, x, row, depth, words, scales, panel, shift, bias, out, at, stride, rows, kind, in_word
):
    """out[i, 0:WIDTH] = x[row + i] . panel number `panel` + bias[0:WIDTH] for `rows` rows of x.

    `x` is a tuple of what split_group writes: digits, scales, sums, offsets, flat. `row` is the place of x's
    first number, `shift` log2 of the groups that share a scale, and `kind` as in panel_tile.
    """
    num_rows, levels = emit.literal(rows), emit.literal(in_word)
    i64 = types.intp
    sig = types.void(x, i64, i64, words, scales, i64, i64, bias, out, i64, i64, rows, kind, in_word)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        biases, out_data = (emit.array_data(context, builder, sig, args, i) for i in (7, 8))
        groups = builder.udiv(args[2], emit.index(GROUP))
        x_rows = _rows_of(context, builder, sig, args)
        weights = panel_of(context, builder, sig, args, groups, levels)
        totals = _begin_totals(builder, biases, num_rows)
        with cgutils.for_range(builder, groups) as loop:
            _add_group(builder, x_rows, weights, loop.index, totals)
        act = None if emit.literal(kind) == PLAIN else emit.literal(kind)
        for i, row_totals in enumerate(totals):
            sums = [builder.load(total) for total in row_totals]
            results = sums if act is None else [gated(builder, sums[0], sums[1], act == GELU_TANH)]
            spot = emit.multiply_add(builder, args[10], i, args[9])
            for column, result in zip(COLUMNS, results, strict=False):
                target = builder.add(spot, emit.index(column))
                emit.store_as(builder, result, out_data, target, sig.args[8])
        return context.get_dummy_value()

    return sig, generate


def _rows_of(context: Context, builder: Builder, sig: Signature, args: Values) -> _Rows:
    parts = cgutils.unpack_tuple(builder, args[0], len(sig.args[0]))
    arrays = [
        context.make_array(kind)(context, builder, part).data
        for kind, part in zip(sig.args[0], parts, strict=True)
    ]
    digits, scales, sums, offsets = arrays
    return _Rows(digits, scales, sums, offsets, args[1], args[2])


def _begin_totals(builder: Builder, biases: Any, num_rows: int) -> list[list[Any]]:
    begins = [emit.load_f32(builder, biases, emit.index(column)) for column in COLUMNS]
    return [[emit.variable(builder, begin) for begin in begins] for _ in range(num_rows)]


def _add_group(
    builder: Builder, x: _Rows, panel: WordPanel, group: Any, totals: list[list[Any]]
) -> None:
    prefetch_words(builder, panel, group)
    numbers = [_group_number(builder, x, i, group) for i in range(len(totals))]
    sums = [_begin_sums(builder, x, panel, number) for number in numbers]
    _add_words(builder, x, panel, group, sums)
    scales = load_scales(builder, panel.scales, group, 0)
    offsets = load_scales(builder, panel.scales, group, 1) if panel.has_offsets else []
    for number, row_sums, row_totals in zip(numbers, sums, totals, strict=True):
        scale = emit.splat(builder, builder.load(builder.gep(x.scales, [number])))
        for c, (of_digits, total) in enumerate(zip(row_sums, row_totals, strict=True)):
            whole = panel.dot.whole(builder, of_digits)
            factor = builder.fmul(scale, scales[c])
            emit.add_product(builder, total, factor, builder.sitofp(whole, emit.VECTOR))
            if offsets:
                offset = emit.splat(builder, builder.load(builder.gep(x.offsets, [number])))
                emit.add_product(builder, total, offset, offsets[c])


def _begin_sums(builder: Builder, x: _Rows, panel: WordPanel, number: Any) -> list[list[Any]]:
    """Return the sums of a group, which begin at what signs want, for each column of a row."""
    start = alike(0) if panel.has_offsets else _due_to_signs(builder, x, panel, number)
    return [panel.dot.begin(builder, start) for _ in COLUMNS]


def _due_to_signs(builder: Builder, x: _Rows, panel: WordPanel, number: Any) -> Any:
    """Return, in every lane, what takes off the sum that is added to signed levels."""
    of_group = builder.load(builder.gep(x.sums, [number]))
    too_much = builder.mul(of_group, ir.Constant(emit.I32, -_ADDED[panel.in_word]))
    return emit.splat_as(builder, too_much, INTS)


def _add_words(
    builder: Builder, x: _Rows, panel: WordPanel, group: Any, sums: list[list[list[Any]]]
) -> None:
    """Add a group's products."""
    if panel.dot.is_by_bytes:
        for step in map(emit.index, range(panel.words_in_group)):
            for part in range(panel.num_parts):
                _add_part(builder, x, panel, group, step, part, sums)
        return
    # LLVM may add whole numbers in any order, and would put all products before all sums: so a loop, and a
    # block of its own for each part
    always = opaque_truth(builder)
    with cgutils.for_range(builder, emit.index(panel.words_in_group)) as loop:
        for part in range(panel.num_parts):
            with builder.if_then(always):
                _add_part(builder, x, panel, group, loop.index, part, sums)


def _add_part(
    builder: Builder, x: _Rows, panel: WordPanel, group: Any, step: int, part: int, sums: list[Any]
) -> None:
    """Add the products of a part of a word of each column with all rows."""
    dot = panel.dot
    first = emit.multiply_add(builder, group, panel.words_in_group * WIDTH, panel.first)
    at = emit.multiply_add(builder, step, WIDTH, first)
    columns = []
    for column in COLUMNS:
        spot = builder.gep(panel.words, [builder.add(at, emit.index(column))])
        words = emit.aligned_load(builder, spot, INTS, 4)
        columns.append(levels_of(builder, panel, words, part))
    place = emit.multiply_add(builder, step, panel.in_word, emit.index(dot.in_lane * part))
    of_row = builder.mul(x.first, emit.index(dot.digits))
    base = builder.add(of_row, emit.multiply_add(builder, group, GROUP, place))
    for i, row in enumerate(sums):
        if not dot.is_by_bytes:
            emit.keep_order(builder)
        for d in range(dot.digits):
            spot = emit.multiply_add(builder, x.depth, dot.digits * i + d, base)
            digits = _in_every_lane(builder, x.digits, spot)
            for c, levels in enumerate(columns):
                dot.add(builder, row[c][d], levels, digits)


def _in_every_lane(builder: Builder, digits: Any, at: Any) -> Any:
    """Put 32 bits of digits into every lane."""
    pointer = builder.bitcast(builder.gep(digits, [at]), emit.I32.as_pointer())
    return emit.splat_as(builder, builder.load(pointer, align=1), INTS)


def _group_number(builder: Builder, x: _Rows, row: int, group: Any) -> Any:
    """Return the number of a row's group among those of all rows."""
    first = builder.udiv(emit.multiply_add(builder, x.depth, row, x.first), emit.index(GROUP))
    return builder.add(first, group)
