"""Emitters that read panels of small integers: levels as float32, scales and offsets (quantized_panel.py)."""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils
from numba.core.typing.templates import Signature

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.group_scales import GroupScales, prefetch_scales
from common.engine.cpu.packed import LINE_BYTES
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.scale_blocks import BLOCK
from common.engine.cpu.target import host_target

GROUP = 32
PART = 16  # numbers that are summed before their scale is applied
STEP = 8  # numbers of a row in a word of 4-bit levels
BYTES_IN_WORD, NIBBLES_IN_WORD = 4, STEP
_AHEAD_BYTES = 8192
_BYTES = ir.VectorType(ir.IntType(8), LANES)
# float32 of each 4-bit level, in two's complement or unsigned
_SIGNED = [float(level if level < 8 else level - 16) for level in range(16)]
_UNSIGNED = [float(level) for level in range(16)]


class Panel(NamedTuple):
    """Panel of levels, with the scales of its groups. Unsigned levels have offsets behind their scales."""

    levels: Any
    first: Any  # of its levels, in words or bytes
    level_dtype: Any  # numba's int8 or uint8; int32 or uint32 of 4-bit levels
    scales: GroupScales  # its units are parts

    @property
    def has_offsets(self) -> bool:
        """True where a number is scale * level + offset, with levels from 0 on."""
        return not self.level_dtype.signed

    @property
    def is_by_bytes(self) -> bool:
        """True for levels of 8 bits, False for words of 4-bit levels."""
        return bool(self.level_dtype.bitwidth == 8)


def panel_of(
    context: Context, builder: Builder, sig: Signature, args: Values, groups: Any
) -> Panel:
    """Return the panel that arguments 4 to 7 of a tile name: levels, scales, its number and `shift`."""
    levels, scales = (emit.array_data(context, builder, sig, args, i) for i in (4, 5))
    dtype, parts = sig.args[4].dtype, builder.mul(groups, emit.index(GROUP // PART))
    rows = 1 if dtype.signed else 2
    of_groups = GroupScales(scales, None, args[7], rows, BLOCK // PART, sig.args[5])
    panel = Panel(levels, None, dtype, of_groups.of_panel(builder, args[6], parts))
    in_group = GROUP if panel.is_by_bytes else GROUP // STEP
    first = builder.mul(builder.mul(args[6], groups), emit.index(in_group * WIDTH))
    return panel._replace(first=first)


def load_level(builder: Builder, panel: Panel, step: Any, number: int, column: int) -> Any:
    """Load one level of LANES rows as float32."""
    if panel.is_by_bytes:
        at = emit.multiply_add(builder, step, STEP * WIDTH, panel.first)
        at = builder.add(at, emit.index(number * WIDTH + column))
        levels = emit.aligned_load(builder, builder.gep(panel.levels, [at]), _BYTES, 1)
        wide = builder.zext(levels, INTS) if panel.has_offsets else builder.sext(levels, INTS)
        return builder.sitofp(wide, emit.VECTOR)
    at = builder.add(emit.multiply_add(builder, step, WIDTH, panel.first), emit.index(column))
    words = emit.aligned_load(builder, builder.gep(panel.levels, [at]), INTS, 4)
    if host_target().level.startswith("avx512"):
        # one instruction looks all lanes up by the lowest 4 bits
        shifted = builder.lshr(words, _alike(4 * number))
        kind = ir.FunctionType(emit.VECTOR, [emit.VECTOR, INTS])
        name = "llvm.x86.avx512.permvar.sf.512"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        table = _UNSIGNED if panel.has_offsets else _SIGNED
        return builder.call(function, [ir.Constant(emit.VECTOR, table), shifted])
    top = builder.shl(words, _alike(28 - 4 * number))
    down = builder.lshr if panel.has_offsets else builder.ashr
    return builder.sitofp(down(top, _alike(28)), emit.VECTOR)


def prefetch_group(builder: Builder, panel: Panel, group: Any) -> None:
    """Ask for the levels and scales of a group further on; panels lie one behind the other."""
    words, item_bytes = (GROUP, 1) if panel.is_by_bytes else (GROUP // STEP, 4)
    at = emit.multiply_add(builder, group, words * WIDTH, panel.first)
    for offset in range(0, words * WIDTH * item_bytes, LINE_BYTES):
        ahead = emit.index((_AHEAD_BYTES + offset) // item_bytes)
        emit.prefetch(builder, panel.levels, builder.add(at, ahead))
    ahead = emit.index(_AHEAD_BYTES // (words * WIDTH * item_bytes))
    first_part = builder.mul(builder.add(group, ahead), emit.index(GROUP // PART))
    prefetch_scales(builder, panel.scales, first_part, GROUP // PART)


def part_number(builder: Builder, group: Any, part: int) -> Any:
    """Return the number of a group's part among all of a row."""
    return emit.multiply_add(builder, group, GROUP // PART, emit.index(part))


def _alike(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)
