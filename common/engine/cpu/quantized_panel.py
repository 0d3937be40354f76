"""Products by panels of small integers, as a numba intrinsic.

A panel is WIDTH rows of levels, transposed: of 8 bits one by one [K, WIDTH], or eight of 4 bits in a word
[K / 8, WIDTH], the first in its lowest bits. They are widened to float32 in registers; x is float32. Their
dtype says what a number is (fused/quantize.py):

- int8, int32: scale * level; levels are signed;
- uint8, uint32: scale * level + offset; levels begin at 0. The offset is multiplied with the sum of x.

Scales and offsets (group_scales.py) are for 16, 32, 64 or more numbers of a row; offsets for 32 at least.

A sum has one order, whatever the number of rows. The products of a part, PART numbers, are added one after
the other from zero; then total += scale * part, fused. Totals lie in memory, so that registers hold the parts
of many rows.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.activation import GELU_TANH, gated
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.group_scales import COLUMNS, load_scales
from common.engine.cpu.packed import LINE_BYTES
from common.engine.cpu.panel import PLAIN, WIDTH
from common.engine.cpu.quantized_levels import (
    GROUP,
    PART,
    STEP,
    Panel,
    load_level,
    panel_of,
    part_number,
    prefetch_group,
)
from common.engine.cpu.target import host_target


class _Rows(NamedTuple):
    """Rows of x, one behind the other, and the sums of their groups."""

    data: Any
    first: Any
    depth: Any
    sums: Any


@intrinsic(prefer_literal=True)
def quantized_tile(  # type: ignore[no-untyped-def]
    ctx, x, x_at, depth, sums, levels, scales, panel, shift, bias, out, out_at, stride, rows, kind
):
    """out[i, 0:WIDTH] = x[row i] . panel number `panel` + bias[0:WIDTH] for `rows` rows of x.

    `kind` is as in panel_tile. `depth` is a multiple of GROUP. `sums` are those of all groups of x.
    PART << `shift` numbers of a row share a scale.
    """
    num_rows = emit.literal(rows)
    i64 = types.intp
    sig = types.void(x, i64, i64, sums, levels, scales, i64, i64, bias, out, i64, i64, rows, kind)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        x_data, x_sums, biases, out_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 3, 8, 9)
        )
        groups = builder.udiv(args[2], emit.index(GROUP))
        weights = panel_of(context, builder, sig, args, groups)
        x_rows = _Rows(x_data, args[1], args[2], x_sums)
        totals = _begin_totals(builder, biases, num_rows)
        with cgutils.for_range(builder, groups) as loop:
            _add_group(builder, x_rows, weights, loop.index, totals)
        for i in range(num_rows):
            row = emit.multiply_add(builder, args[11], i, args[10])
            for column, result in _results(builder, totals[i][0], emit.literal(kind)):
                at = builder.add(row, emit.index(column))
                emit.store_as(builder, result, out_data, at, sig.args[9])
        return context.get_dummy_value()

    return sig, generate


@intrinsic
def group_sum(ctx, x, at):  # type: ignore[no-untyped-def]
    """Return the sum of GROUP numbers of x from `at` on, in one order on every CPU of a kind."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = emit.array_data(context, builder, sig, args, 0)
        total = emit.constant(0.0)
        for offset in map(emit.index, range(0, GROUP, LANES)):
            part = emit.load_f32(builder, data, builder.add(args[1], offset))
            total = builder.fadd(total, part)
        return emit.across(builder, total, emit.add)

    return types.float32(x, types.intp), generate


def _begin_totals(builder: Builder, biases: Any, num_rows: int) -> list[list[Any]]:
    """Make the totals, WIDTH a row; each begins at the bias."""
    with builder.goto_entry_block():
        memory = builder.alloca(emit.F32, size=emit.index(num_rows * WIDTH))
        memory.align = LINE_BYTES
    _escape(builder, memory)
    totals = [[builder.gep(memory, [emit.index(i * WIDTH)])] for i in range(num_rows)]
    for row in totals:
        for column in map(emit.index, COLUMNS):
            emit.store(builder, emit.load_f32(builder, biases, column), row[0], column)
    return totals


def _results(builder: Builder, total: Any, kind: int) -> list[tuple[int, Any]]:
    """Return a row's results, each with its first column: its sums, or those of gates applied to the rest."""
    sums = [emit.load_f32(builder, total, emit.index(column)) for column in COLUMNS]
    if kind == PLAIN:
        return list(zip(COLUMNS, sums, strict=True))
    return [(0, gated(builder, sums[0], sums[1], kind == GELU_TANH))]


def _add_group(
    builder: Builder, x: _Rows, panel: Panel, group: Any, totals: list[list[Any]]
) -> None:
    """Add a group's products. Few rows run both parts at once: a chain of sums waits for each of its own."""
    prefetch_group(builder, panel, group)
    together = 2 if len(totals) <= _few_rows() else 1
    for first_part in range(0, GROUP // PART, together):
        parts = range(first_part, first_part + together)
        zero = emit.constant(0.0)
        sums = [[[emit.variable(builder, zero) for _ in COLUMNS] for _ in totals] for _ in parts]
        with cgutils.for_range(builder, emit.index(PART // STEP)) as loop:
            for number in range(STEP):
                for part, of_part in zip(parts, sums, strict=True):
                    step = builder.add(loop.index, emit.index(part * (PART // STEP)))
                    step = emit.multiply_add(builder, group, GROUP // STEP, step)
                    _add_products(builder, x, panel, step, number, of_part)
        for part, of_part in zip(parts, sums, strict=True):
            _add_scaled(builder, x, panel, group, part, of_part, totals)


def _add_products(
    builder: Builder, x: _Rows, panel: Panel, step: Any, number: int, sums: list[list[Any]]
) -> None:
    """Add the products of one number of each row, the `number`-th of a step."""
    weights = [load_level(builder, panel, step, number, column) for column in COLUMNS]
    at = builder.add(emit.multiply_add(builder, step, STEP, x.first), emit.index(number))
    for i, row in enumerate(sums):
        if len(sums) > _few_rows():
            emit.keep_order(builder)
        spot = builder.gep(x.data, [emit.multiply_add(builder, x.depth, i, at)])
        left = emit.splat(builder, builder.load(spot))
        for total, weight in zip(row, weights, strict=True):
            emit.add_product(builder, total, left, weight)


def _add_scaled(
    builder: Builder,
    x: _Rows,
    panel: Panel,
    group: Any,
    part: int,
    sums: list[list[Any]],
    totals: list[list[Any]],
) -> None:
    """Add the sums of a part to the totals; a group's last part adds its offsets too, where it has some."""
    is_last = part == GROUP // PART - 1
    number = part_number(builder, group, part)
    scales = load_scales(builder, panel.scales, number, 0)
    has_offsets = is_last and panel.has_offsets
    offsets = load_scales(builder, panel.scales, number, 1) if has_offsets else []
    for i, (row, (total,)) in enumerate(zip(sums, totals, strict=True)):
        spots = [emit.index(column) for column in COLUMNS]
        found = [emit.load_f32(builder, total, spot) for spot in spots]
        for c, (of_column, scale) in enumerate(zip(row, scales, strict=True)):
            found[c] = emit.call(builder, "llvm.fma", [scale, builder.load(of_column), found[c]])
        if offsets:
            first = builder.udiv(emit.multiply_add(builder, x.depth, i, x.first), emit.index(GROUP))
            number = builder.load(builder.gep(x.sums, [builder.add(first, group)]))
            of_row = emit.splat(builder, number)
            for c, offset in enumerate(offsets):
                found[c] = emit.call(builder, "llvm.fma", [offset, of_row, found[c]])
        for spot, result in zip(spots, found, strict=True):
            emit.store(builder, result, total, spot)


def _few_rows() -> int:
    """Return how many rows have the sums of both parts of a group in registers."""
    return 4 if host_target().level.startswith("avx512") else 2


def _escape(builder: Builder, pointer: Any) -> None:
    """Let LLVM believe that others may read this memory: else it would put it into registers."""
    kind = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(ir.InlineAsm(kind, "", "r,~{memory}", side_effect=True), [pointer])
