"""Emitters that read panels of words of small integers (integer_panel.py): levels, scales and offsets."""

from typing import Any, NamedTuple

from numba.core.typing.templates import Signature

from common.engine.cpu import emit
from common.engine.cpu.emit import Builder, Context, Values
from common.engine.cpu.group_scales import GroupScales, prefetch_scales
from common.engine.cpu.integer_dots import IntegerDot, alike, dot_of
from common.engine.cpu.packed import LINE_BYTES
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP
from common.engine.cpu.scale_blocks import BLOCK

_AHEAD_BYTES = 8192
_WORD_BITS = 32


class WordPanel(NamedTuple):
    """Panel of words, with the scales of its groups."""

    words: Any
    first: Any
    in_word: int
    dot: IntegerDot
    scales: GroupScales  # its units are groups of x

    @property
    def words_in_group(self) -> int:
        return GROUP // self.in_word

    @property
    def has_offsets(self) -> bool:
        """True where levels have no sign."""
        return self.scales.rows > 1

    @property
    def num_parts(self) -> int:
        """Vectors that the levels of a word come apart into."""
        return self.in_word // self.dot.in_lane


def panel_of(
    context: Context, builder: Builder, sig: Signature, args: Values, groups: Any, in_word: int
) -> WordPanel:
    """Return the panel that arguments 3 to 6 of a tile name: words, scales, its number and `shift`.

    `dot` follows from the digits, the first of argument 0.
    """
    words, scales = (emit.array_data(context, builder, sig, args, i) for i in (3, 4))
    rows = 1 if sig.args[3].dtype.signed else 2
    of_groups = GroupScales(scales, None, args[6], rows, BLOCK // GROUP, sig.args[4])
    dot = dot_of(sig.args[0][0])
    panel = WordPanel(words, None, in_word, dot, of_groups.of_panel(builder, args[5], groups))
    first = builder.mul(builder.mul(args[5], groups), emit.index(panel.words_in_group * WIDTH))
    return panel._replace(first=first)


def levels_of(builder: Builder, panel: WordPanel, words: Any, part: int) -> Any:
    """Return a part of the levels of words, without a sign: four bytes a lane, or two 16-bit integers.

    Bytes: all four, or the even levels of 4 bits and the odd ones. Pairs: of each two that are half a word
    apart. integer_rows.py stores the numbers of x in the same order.
    """
    if panel.in_word == BYTES_IN_WORD and panel.dot.is_by_bytes:
        return words
    bits = _WORD_BITS // panel.in_word
    if part:
        words = builder.lshr(words, alike(bits * part))
    levels = builder.and_(words, _in_numbers(panel, (1 << bits) - 1))
    if panel.in_word == BYTES_IN_WORD or panel.has_offsets:
        return levels
    return builder.xor(levels, _in_numbers(panel, 1 << (bits - 1)))


def _in_numbers(panel: WordPanel, bits: int) -> Any:
    """Make words of the same bits in each number of a lane."""
    return alike(sum(bits << at for at in range(0, _WORD_BITS, _WORD_BITS // panel.dot.in_lane)))


def prefetch_words(builder: Builder, panel: WordPanel, group: Any) -> None:
    """Ask for the words and scales of a group further on; panels lie one behind the other."""
    size = panel.words_in_group * WIDTH
    at = emit.multiply_add(builder, group, size, panel.first)
    for offset in range(0, 4 * size, LINE_BYTES):
        ahead = emit.index((_AHEAD_BYTES + offset) // 4)
        emit.prefetch(builder, panel.words, builder.add(at, ahead))
    ahead = emit.index(_AHEAD_BYTES // (4 * size))
    prefetch_scales(builder, panel.scales, builder.add(group, ahead), 1)
