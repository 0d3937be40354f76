"""Emitters that read scales and offsets of panels of small integers, as float32.

They are float16 or float32, one row of WIDTH numbers for each group. Or they are bytes, by blocks of BLOCK
numbers (fused/block_scales.py): rows of float16 of the block, then rows of int8 for each of its groups. A
product of the two is exact in float32.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.jit import part
from common.engine.cpu.packed import LINE_BYTES
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.scale_blocks import BLOCK, HALF_ROWS

COLUMNS = range(0, WIDTH, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)


class GroupScales(NamedTuple):
    """Scales of one panel. A unit is the numbers of a row that a kernel sums before it applies a scale."""

    data: Any
    first: Any  # of the panel
    shift: Any  # log2 of the units that share a scale
    rows: int  # of WIDTH numbers that a group has: scales, and perhaps offsets
    units_of_block: int
    array: types.Array

    @property
    def is_by_blocks(self) -> bool:
        """True where scales are bytes."""
        return bool(self.array.dtype == types.int8)

    @property
    def item_bytes(self) -> int:
        """Bytes of a stored number."""
        if self.is_by_blocks:
            return 1
        return 4 if self.array.dtype == types.float32 else 2

    def of_panel(self, builder: Builder, panel: Any, num_units: Any) -> "GroupScales":
        """Return those of another panel, whose rows have `num_units` units."""
        count = builder.lshr(num_units, self.shift)
        if self.is_by_blocks:
            blocks = builder.udiv(num_units, emit.index(self.units_of_block))
            count = builder.add(count, builder.mul(blocks, emit.index(HALF_ROWS)))
        first = builder.mul(builder.mul(panel, count), emit.index(self.rows * WIDTH))
        return self._replace(first=first)


def load_scales(builder: Builder, scales: GroupScales, unit: Any, row: int) -> list[Any]:
    """Load the scales, row 0, or the offsets, row 1, of a unit as float32."""
    if scales.is_by_blocks:
        return _load_products(builder, scales, unit, row)
    entry = builder.lshr(unit, scales.shift)
    at = emit.multiply_add(builder, entry, scales.rows * WIDTH, scales.first)
    spots = [builder.add(at, emit.index(row * WIDTH + column)) for column in COLUMNS]
    return [emit.load(builder, scales.data, spot, scales.array) for spot in spots]


def prefetch_scales(builder: Builder, scales: GroupScales, unit: Any, num_units: int) -> None:
    """Ask for the scales of `num_units` units from `unit` on."""
    entry_bytes = scales.rows * WIDTH * scales.item_bytes
    if scales.is_by_blocks:
        # as if a block's bytes were spread evenly over its units
        size = builder.mul(_entries_of_block(builder, scales), emit.index(entry_bytes))
        at = builder.udiv(builder.mul(unit, size), emit.index(scales.units_of_block))
        at = builder.add(at, scales.first)
        # groups with offsets have no fewer numbers than are asked for at once
        entries = 1 if scales.rows > 1 else num_units
        most_bytes = (entries + HALF_ROWS * num_units / scales.units_of_block) * entry_bytes
    else:
        entry = builder.lshr(unit, scales.shift)
        at = emit.multiply_add(builder, entry, scales.rows * WIDTH, scales.first)
        most_bytes = float(entry_bytes)
    for offset in range(0, int(most_bytes), LINE_BYTES):
        numbers = offset // scales.item_bytes
        emit.prefetch(builder, scales.data, builder.add(at, emit.index(numbers)))


def _load_products(builder: Builder, scales: GroupScales, unit: Any, row: int) -> list[Any]:
    block = builder.udiv(unit, emit.index(scales.units_of_block))
    group = builder.lshr(builder.urem(unit, emit.index(scales.units_of_block)), scales.shift)
    entry = builder.mul(block, _entries_of_block(builder, scales))
    first = emit.multiply_add(builder, entry, scales.rows * WIDTH, scales.first)
    of_block = builder.add(first, emit.index(HALF_ROWS * row * WIDTH))
    of_group = emit.multiply_add(builder, group, scales.rows * WIDTH, first)
    of_group = builder.add(of_group, emit.index((HALF_ROWS * scales.rows + row) * WIDTH))
    found = []
    for column in COLUMNS:
        half = builder.gep(scales.data, [builder.add(of_block, emit.index(2 * column))])
        byte = builder.gep(scales.data, [builder.add(of_group, emit.index(column))])
        factor = builder.fpext(emit.aligned_load(builder, half, _HALVES, 2), emit.VECTOR)
        small = builder.sext(emit.aligned_load(builder, byte, _BYTES, 1), INTS)
        found.append(builder.fmul(factor, builder.sitofp(small, emit.VECTOR)))
    return found


def _entries_of_block(builder: Builder, scales: GroupScales) -> Any:
    groups = builder.lshr(emit.index(scales.units_of_block), scales.shift)
    return builder.add(groups, emit.index(HALF_ROWS))


@part()
def count_groups(scales, depth):  # type: ignore[no-untyped-def]
    """Return the groups of rows of `depth` numbers, of scales [P, entries, 1 or 2, WIDTH]."""
    return scales.shape[1] - (HALF_ROWS * (depth // BLOCK) if scales.itemsize == 1 else 0)


@part()
def read_scale(scales, numbers, panel, group, groups, row, lane):  # type: ignore[no-untyped-def]
    """Return a scale, row 0, or an offset, row 1, of one row of a panel; `numbers` are flat(scales)."""
    entries, rows = scales.shape[1], scales.shape[2]
    first, in_block = panel * entries, groups
    if entries > groups:
        in_block = groups // ((entries - groups) // HALF_ROWS)
        first += group // in_block * (in_block + HALF_ROWS)
    of_block = first * rows * WIDTH + HALF_ROWS * (row * WIDTH + lane)
    entry = first + group % in_block + (HALF_ROWS if entries > groups else 0)
    return _number(numbers, of_block, (entry * rows + row) * WIDTH + lane)


@intrinsic
def _number(ctx, numbers, of_block, of_group):  # type: ignore[no-untyped-def]
    """Return the number at `of_group` as float32; an int8 is multiplied with the float16 at `of_block`."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = emit.array_data(context, builder, sig, args, 0)
        dtype, value = sig.args[0].dtype, builder.load(builder.gep(data, [args[2]]))
        if dtype == types.float32:
            return value
        if dtype == types.int16:
            return builder.fpext(builder.bitcast(value, ir.HalfType()), emit.F32)
        if dtype != types.int8:
            raise TypeError(f"no scales of {dtype}")
        half = ir.HalfType()
        pointer = builder.bitcast(builder.gep(data, [args[1]]), half.as_pointer())
        factor = builder.fpext(builder.load(pointer, align=1), emit.F32)
        return builder.fmul(factor, builder.sitofp(value, emit.F32))

    return types.float32(numbers, types.intp, types.intp), generate
