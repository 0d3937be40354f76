"""Emitters that read panels of words of small integers (integer_panel.py): levels, scales and offsets."""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, COLUMNS, GROUP, LINE_BYTES

_AHEAD_BYTES = 8192
_NIBBLES = 0x0F0F0F0F
_SIGNS = 0x08080808


class WordPanel(NamedTuple):
    """Panel of words, with the scales of its groups."""

    words: Any
    first: Any
    scales: Any
    first_scale: Any
    shift: Any  # log2 of the groups of x that share a scale
    in_word: int
    has_offsets: bool  # levels have no sign then
    scale_array: types.Array

    @property
    def words_in_group(self) -> int:
        return GROUP // self.in_word

    @property
    def scale_rows(self) -> int:
        """Rows of WIDTH numbers that a group has: scales, and perhaps offsets."""
        return 2 if self.has_offsets else 1


def panel_of(
    context: Context, builder: Builder, sig: Signature, args: Values, groups: Any, in_word: int
) -> WordPanel:
    """Return the panel that arguments 3 to 6 of a tile name: words, scales, its number and `shift`."""
    words, scales = (emit.array_data(context, builder, sig, args, i) for i in (3, 4))
    has_offsets = not sig.args[3].dtype.signed
    panel = WordPanel(words, None, scales, None, args[6], in_word, has_offsets, sig.args[4])
    first = builder.mul(builder.mul(args[5], groups), emit.index(panel.words_in_group * WIDTH))
    num_scales = builder.lshr(groups, args[6])
    first_scale = builder.mul(
        builder.mul(args[5], num_scales), emit.index(panel.scale_rows * WIDTH)
    )
    return panel._replace(first=first, first_scale=first_scale)


def levels_of(builder: Builder, panel: WordPanel, words: Any) -> list[Any]:
    """Return words of four bytes without a sign."""
    if panel.in_word == BYTES_IN_WORD:
        return [words]
    shifted = (words, builder.lshr(words, alike(4)))
    halves = [builder.and_(half, alike(_NIBBLES)) for half in shifted]
    if panel.has_offsets:
        return halves
    return [builder.xor(half, alike(_SIGNS)) for half in halves]


def load_scales(builder: Builder, panel: WordPanel, group: Any, row: int) -> list[Any]:
    """Load the scales, row 0, or the offsets, row 1, of a group as float32."""
    at = _scales_at(builder, panel, group)
    spots = [builder.add(at, emit.index(row * WIDTH + column)) for column in COLUMNS]
    return [emit.load(builder, panel.scales, spot, panel.scale_array) for spot in spots]


def _scales_at(builder: Builder, panel: WordPanel, group: Any) -> Any:
    row = builder.lshr(group, panel.shift)
    return emit.multiply_add(builder, row, panel.scale_rows * WIDTH, panel.first_scale)


def prefetch_words(builder: Builder, panel: WordPanel, group: Any) -> None:
    """Ask for the words and scales of a group further on; panels lie one behind the other."""
    size = panel.words_in_group * WIDTH
    at = emit.multiply_add(builder, group, size, panel.first)
    for offset in range(0, 4 * size, LINE_BYTES):
        ahead = emit.index((_AHEAD_BYTES + offset) // 4)
        emit.prefetch(builder, panel.words, builder.add(at, ahead))
    ahead_groups = emit.index(_AHEAD_BYTES // (4 * size))
    at = _scales_at(builder, panel, builder.add(group, ahead_groups))
    item_bytes = 4 if panel.scale_array.dtype == types.float32 else 2
    for offset in range(0, panel.scale_rows * WIDTH, LINE_BYTES // item_bytes):
        emit.prefetch(builder, panel.scales, builder.add(at, emit.index(offset)))


def alike(value: int) -> Any:
    """Make a vector of one constant in every lane."""
    return ir.Constant(INTS, [value] * LANES)
