"""Emitters that read panels of small integers: levels as float32, scales and offsets (quantized_panel.py)."""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.target import host_target

GROUP = 32
STEP = 8  # numbers of a row in a word of 4-bit levels
_AHEAD_BYTES = 8192
LINE_BYTES = 64
COLUMNS = range(0, WIDTH, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
# float32 of each 4-bit level in two's complement
_LEVELS = [float(level if level < 8 else level - 16) for level in range(16)]


class Panel(NamedTuple):
    """Panel of levels, with the scales of its groups."""

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


def panel_of(
    context: Context, builder: Builder, sig: Signature, args: Values, groups: Any
) -> Panel:
    """Return the panel that arguments 4 to 6 of a tile name: levels, scales and its number."""
    levels, scales = (emit.array_data(context, builder, sig, args, i) for i in (4, 5))
    is_int8 = bool(sig.args[4].dtype == types.int8)
    panel = Panel(levels, None, scales, None, is_int8, sig.args[5])
    in_group = GROUP if is_int8 else GROUP // STEP
    group = builder.mul(args[6], groups)
    first, first_scale = (
        builder.mul(group, emit.index(rows * WIDTH)) for rows in (in_group, panel.scale_rows)
    )
    return panel._replace(first=first, first_scale=first_scale)


def load_level(builder: Builder, panel: Panel, step: Any, number: int, column: int) -> Any:
    """Load one level of LANES rows as float32."""
    if panel.is_int8:
        at = emit.multiply_add(builder, step, STEP * WIDTH, panel.first)
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


def load_scales(builder: Builder, panel: Panel, group: Any, row: int) -> list[Any]:
    """Load a group's scales, row 0, or its offsets, row 1, as float32."""
    at = emit.multiply_add(builder, group, panel.scale_rows * WIDTH, panel.first_scale)
    spots = [builder.add(at, emit.index(row * WIDTH + column)) for column in COLUMNS]
    return [emit.load(builder, panel.scales, spot, panel.scale_array) for spot in spots]


def prefetch_group(builder: Builder, panel: Panel, group: Any) -> None:
    """Ask for the levels and scales of a group further on; panels lie one behind the other."""
    words, item_bytes = (GROUP, 1) if panel.is_int8 else (GROUP // STEP, 4)
    at = emit.multiply_add(builder, group, words * WIDTH, panel.first)
    for offset in range(0, words * WIDTH * item_bytes, LINE_BYTES):
        ahead = emit.index((_AHEAD_BYTES + offset) // item_bytes)
        emit.prefetch(builder, panel.levels, builder.add(at, ahead))
    scales = panel.scale_rows * WIDTH
    at = emit.multiply_add(builder, group, scales, panel.first_scale)
    ahead_groups = _AHEAD_BYTES // (words * WIDTH * item_bytes)
    for offset in range(0, scales, LINE_BYTES // 2):
        ahead = emit.index(ahead_groups * scales + offset)
        emit.prefetch(builder, panel.scales, builder.add(at, ahead))


def _alike(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)
