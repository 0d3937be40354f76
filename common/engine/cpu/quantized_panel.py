"""Products by panels of small integers, as a numba intrinsic.

Weights lie in groups of GROUP numbers of a row, with a float16 scale each (fused/quantize.py). A panel is
WIDTH rows, transposed: int8 levels one by one [K, WIDTH], or eight levels of 4 bits in an int32 word
[K / 8, WIDTH], the first in its lowest bits. They are widened to float32 in registers; x is float32. Groups
of 4-bit levels have an offset too, which is multiplied with the sum of the group's x.

A sum has one order, whatever the number of rows. The products of a part, half a group, are added one after
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
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.panel import PLAIN, WIDTH
from common.engine.cpu.target import host_target

GROUP = 32
_PART = 16  # numbers that are summed before their scale is applied
_STEP = 8  # numbers of a row in a word of 4-bit levels; so many are unrolled
_AHEAD_BYTES = 8192
_LINE_BYTES = 64
_COLUMNS = range(0, WIDTH, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
# float32 of each 4-bit level in two's complement
_LEVELS = [float(level if level < 8 else level - 16) for level in range(16)]


class _Rows(NamedTuple):
    """Rows of x, one behind the other, and the sums of their groups."""

    data: Any
    first: Any
    depth: Any
    sums: Any


class _Panel(NamedTuple):
    levels: Any
    first: Any  # of its levels, in words or bytes
    scales: Any
    first_scale: Any
    is_int8: bool
    scale_array: types.Array

    @property
    def scale_rows(self) -> int:
        """Rows of WIDTH float16 that a group has: scales, and the offsets of 4-bit levels."""
        return 1 if self.is_int8 else 2


@intrinsic(prefer_literal=True)
def quantized_tile(  # type: ignore[no-untyped-def]
    ctx, x, x_at, depth, sums, levels, scales, panel, bias, out, out_at, out_width, rows, kind
):
    """out[i, 0:WIDTH] = x[row i] . panel number `panel` + bias[0:WIDTH] for `rows` rows of x.

    `kind` is as in panel_tile. `depth` is a multiple of GROUP. `sums` are those of all groups of x.
    """
    num_rows = emit.literal(rows)
    i64 = types.intp
    sig = types.void(x, i64, i64, sums, levels, scales, i64, bias, out, i64, i64, rows, kind)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        x_data, x_sums, biases, out_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 3, 7, 8)
        )
        groups = builder.udiv(args[2], emit.index(GROUP))
        weights = _panel(context, builder, sig, args, groups)
        x_rows = _Rows(x_data, args[1], args[2], x_sums)
        totals = _begin_totals(builder, biases, num_rows)
        with cgutils.for_range(builder, groups) as loop:
            _add_group(builder, x_rows, weights, loop.index, totals)
        for i in range(num_rows):
            row = emit.multiply_add(builder, args[10], i, args[9])
            sums = [emit.load_f32(builder, totals[i][0], emit.index(c)) for c in _COLUMNS]
            is_plain, is_gelu = (emit.literal(kind) == one for one in (PLAIN, GELU_TANH))
            results = sums if is_plain else [gated(builder, sums[0], sums[1], is_gelu)]
            for column, result in zip(_COLUMNS, results, strict=False):
                at = builder.add(row, emit.index(column))
                emit.store_as(builder, result, out_data, at, sig.args[8])
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


def _panel(context: Context, builder: Builder, sig: Signature, args: Values, groups: Any) -> _Panel:
    """Return the panel that arguments 4 to 6 of a tile name: levels, scales and its number."""
    levels, scales = (emit.array_data(context, builder, sig, args, i) for i in (4, 5))
    is_int8 = bool(sig.args[4].dtype == types.int8)
    panel = _Panel(levels, None, scales, None, is_int8, sig.args[5])
    in_group = GROUP if is_int8 else GROUP // _STEP
    group = builder.mul(args[6], groups)
    first, first_scale = (
        builder.mul(group, emit.index(rows * WIDTH)) for rows in (in_group, panel.scale_rows)
    )
    return panel._replace(first=first, first_scale=first_scale)


def _begin_totals(builder: Builder, biases: Any, num_rows: int) -> list[list[Any]]:
    """Make the totals, WIDTH a row; each begins at the bias."""
    with builder.goto_entry_block():
        memory = builder.alloca(emit.F32, size=emit.index(num_rows * WIDTH))
        memory.align = _LINE_BYTES
    _escape(builder, memory)
    totals = [[builder.gep(memory, [emit.index(i * WIDTH)])] for i in range(num_rows)]
    for row in totals:
        for column in map(emit.index, _COLUMNS):
            emit.store(builder, emit.load_f32(builder, biases, column), row[0], column)
    return totals


def _add_group(
    builder: Builder, x: _Rows, panel: _Panel, group: Any, totals: list[list[Any]]
) -> None:
    """Add a group's products. Few rows run both parts at once: a chain of sums waits for each of its own."""
    _prefetch(builder, panel, group)
    together = 2 if len(totals) <= _few_rows() else 1
    for first_part in range(0, GROUP // _PART, together):
        parts = range(first_part, first_part + together)
        zero = emit.constant(0.0)
        sums = [[[emit.variable(builder, zero) for _ in _COLUMNS] for _ in totals] for _ in parts]
        with cgutils.for_range(builder, emit.index(_PART // _STEP)) as loop:
            for number in range(_STEP):
                for part, of_part in zip(parts, sums, strict=True):
                    step = builder.add(loop.index, emit.index(part * (_PART // _STEP)))
                    step = emit.multiply_add(builder, group, GROUP // _STEP, step)
                    _add_products(builder, x, panel, step, number, of_part)
        for part, of_part in zip(parts, sums, strict=True):
            is_last = part == GROUP // _PART - 1
            _add_scaled(builder, x if is_last else None, panel, group, of_part, totals)


def _add_products(
    builder: Builder, x: _Rows, panel: _Panel, step: Any, number: int, sums: list[list[Any]]
) -> None:
    """Add the products of one number of each row, the `number`-th of a step."""
    weights = [_widened(builder, panel, step, number, column) for column in _COLUMNS]
    at = builder.add(emit.multiply_add(builder, step, _STEP, x.first), emit.index(number))
    for i, row in enumerate(sums):
        if len(sums) > _few_rows():
            _keep_order(builder)
        spot = builder.gep(x.data, [emit.multiply_add(builder, x.depth, i, at)])
        left = emit.splat(builder, builder.load(spot))
        for total, weight in zip(row, weights, strict=True):
            emit.add_product(builder, total, left, weight)


def _widened(builder: Builder, panel: _Panel, step: Any, number: int, column: int) -> Any:
    """Load one level of LANES rows as float32."""
    if panel.is_int8:
        at = emit.multiply_add(builder, step, _STEP * WIDTH, panel.first)
        at = builder.add(at, emit.index(number * WIDTH + column))
        levels = emit.aligned_load(builder, builder.gep(panel.levels, [at]), _BYTES, 1)
        return builder.sitofp(builder.sext(levels, INTS), emit.VECTOR)
    at = builder.add(emit.multiply_add(builder, step, WIDTH, panel.first), emit.index(column))
    words = emit.aligned_load(builder, builder.gep(panel.levels, [at]), INTS, 4)
    if host_target().level.startswith("avx512"):
        # one instruction looks all lanes up by the lowest 4 bits
        shifted = builder.lshr(words, _alike(4 * number))
        kind = ir.FunctionType(emit.VECTOR, [emit.VECTOR, INTS])
        name = "llvm.x86.avx512.permvar.sf.512"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(emit.VECTOR, _LEVELS), shifted])
    top = builder.shl(words, _alike(28 - 4 * number))
    return builder.sitofp(builder.ashr(top, _alike(28)), emit.VECTOR)


def _add_scaled(
    builder: Builder,
    x: _Rows | None,
    panel: _Panel,
    group: Any,
    sums: list[list[Any]],
    totals: list[list[Any]],
) -> None:
    """Add a part's sums to the totals; `x`, given with a group's last part, adds offsets where there are."""
    scales = _scales(builder, panel, group, 0)
    offsets = _scales(builder, panel, group, 1) if x is not None and not panel.is_int8 else []
    for i, (row, (total,)) in enumerate(zip(sums, totals, strict=True)):
        spots = [emit.index(column) for column in _COLUMNS]
        found = [emit.load_f32(builder, total, spot) for spot in spots]
        for c, (part, scale) in enumerate(zip(row, scales, strict=True)):
            found[c] = emit.call(builder, "llvm.fma", [scale, builder.load(part), found[c]])
        if x is not None and offsets:
            first = builder.udiv(emit.multiply_add(builder, x.depth, i, x.first), emit.index(GROUP))
            number = builder.load(builder.gep(x.sums, [builder.add(first, group)]))
            of_row = emit.splat(builder, number)
            for c, offset in enumerate(offsets):
                found[c] = emit.call(builder, "llvm.fma", [offset, of_row, found[c]])
        for spot, result in zip(spots, found, strict=True):
            emit.store(builder, result, total, spot)


def _scales(builder: Builder, panel: _Panel, group: Any, row: int) -> list[Any]:
    """Load a group's scales, row 0, or its offsets, row 1, as float32."""
    at = emit.multiply_add(builder, group, panel.scale_rows * WIDTH, panel.first_scale)
    spots = [builder.add(at, emit.index(row * WIDTH + column)) for column in _COLUMNS]
    return [emit.load(builder, panel.scales, spot, panel.scale_array) for spot in spots]


def _prefetch(builder: Builder, panel: _Panel, group: Any) -> None:
    """Ask for the levels and scales of a group further on; panels lie one behind the other."""
    words, item_bytes = (GROUP, 1) if panel.is_int8 else (GROUP // _STEP, 4)
    at = emit.multiply_add(builder, group, words * WIDTH, panel.first)
    for offset in range(0, words * WIDTH * item_bytes, _LINE_BYTES):
        ahead = emit.index((_AHEAD_BYTES + offset) // item_bytes)
        emit.prefetch(builder, panel.levels, builder.add(at, ahead))
    scales = panel.scale_rows * WIDTH
    at = emit.multiply_add(builder, group, scales, panel.first_scale)
    ahead_groups = _AHEAD_BYTES // (words * WIDTH * item_bytes)
    for offset in range(0, scales, _LINE_BYTES // 2):
        ahead = emit.index(ahead_groups * scales + offset)
        emit.prefetch(builder, panel.scales, builder.add(at, ahead))


def _few_rows() -> int:
    """Return how many rows have the sums of both parts of a group in registers."""
    return 4 if host_target().level.startswith("avx512") else 2


def _alike(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)


def _escape(builder: Builder, pointer: Any) -> None:
    """Let LLVM believe that others may read this memory: else it would put it into registers."""
    kind = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(ir.InlineAsm(kind, "", "r,~{memory}", side_effect=True), [pointer])


def _keep_order(builder: Builder) -> None:
    """Keep later loads behind this point, as in panel.py."""
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.call(ir.InlineAsm(kind, "", "~{memory}", side_effect=True), [])
