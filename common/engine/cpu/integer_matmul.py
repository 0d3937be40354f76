"""Kernels that multiply rows, as 16-bit integers, with panels of small integers."""

from collections.abc import Callable
from functools import partial

import numpy as np

from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.group_scales import count_groups
from common.engine.cpu.integer_panel import integer_tile
from common.engine.cpu.integer_rows import DIGITS, IS_BY_BYTES, split_group
from common.engine.cpu.jit import Compiled, kernel, part
from common.engine.cpu.memory import flat
from common.engine.cpu.panel import PLAIN
from common.engine.cpu.panel_items import items_function, shift_of
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP, NIBBLES_IN_WORD
from common.engine.cpu.target import host_target

ROWS = (host_target().integer_tile_rows, 4, 3, 2, 1)  # of a tile
_DIGIT = np.int8 if IS_BY_BYTES else np.int16


@part()
def _split_rows(first, end, x, digits, scales, sums, offsets, in_word):  # type: ignore[no-untyped-def]
    depth = x.shape[1]
    groups = depth // GROUP
    numbers, target = flat(x), flat(digits)
    for group in range(first * groups, end * groups):
        at = group * GROUP
        to = at + group // groups * depth * (DIGITS - 1)
        if in_word == BYTES_IN_WORD:
            split_group(numbers, at, target, to, depth, scales, sums, offsets, group, BYTES_IN_WORD)
        else:
            split_group(
                numbers, at, target, to, depth, scales, sums, offsets, group, NIBBLES_IN_WORD
            )


def _tile_function(rows: int, kind: int, in_word: int) -> Compiled:
    """Make a function that runs tiles of `rows` rows from `row` on and returns the first row left."""

    @part(variant=f"{rows}.{kind}.{in_word}")
    def run(given, row, end, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
        x, depth, words, scales, shift = given
        while row + rows <= end:
            x_at, at = row * depth, row * width + column
            integer_tile(
                x,
                x_at,
                depth,
                words,
                scales,
                panel,
                shift,
                bias,
                out,
                at,
                width,
                rows,
                kind,
                in_word,
            )
            row += rows
        return row

    return run


def _panels_function(kind: int) -> Compiled:
    """Make the part that runs a thread's panels; `kind` as in panel_tile."""

    def items(in_word: int) -> Compiled:
        make_tile = partial(_tile_function, kind=kind, in_word=in_word)
        return items_function(make_tile, ROWS, kind, f"integer.{kind}.{in_word}")

    by_bytes, by_nibbles = items(BYTES_IN_WORD), items(NIBBLES_IN_WORD)

    @part(variant=str(kind))
    def run_panels(  # type: ignore[no-untyped-def]
        first_item, end_item, rows, words, scales, bias, out, first_column, end_column, num_parts
    ):
        tokens, depth = rows[0].shape[0], rows[0].shape[2]
        x = (flat(rows[0]), rows[1], rows[2], rows[3])
        shift = shift_of(depth, count_groups(scales, depth), GROUP)
        given = (x, depth, flat(words), flat(scales), shift)
        if words.shape[1] * BYTES_IN_WORD == depth:
            by_bytes(
                first_item, end_item, given, tokens, bias, out, first_column, end_column, num_parts
            )
        else:
            by_nibbles(
                first_item, end_item, given, tokens, bias, out, first_column, end_column, num_parts
            )

    return run_panels


def _matmul_function(kind: int) -> Callable[..., None]:
    """Make the kernel that multiplies all rows of x with all panels."""
    run_panels = _panels_function(kind)

    @kernel(variant=str(kind))
    def matmul(x, words, scales, bias, out, first_column, end_column, num_parts):  # type: ignore[no-untyped-def]
        tokens, depth = x.shape
        digits, groups = np.empty((tokens, DIGITS, depth), _DIGIT), tokens * depth // GROUP
        x_scales, sums = np.empty(groups, np.float32), np.empty(groups, np.int32)
        offsets = np.empty(groups, np.float32)
        parts = (x, digits, x_scales, sums, offsets, depth // words.shape[1])
        if tokens == 1:
            _split_rows(0, 1, *parts)
        else:
            in_parallel(tokens, _split_rows, parts)
        # not flat yet: the arrays must live until the end
        rows = (digits, x_scales, sums, offsets)
        arguments = (rows, words, scales, bias, out, first_column, end_column, num_parts)
        in_parallel(words.shape[0] * num_parts, run_panels, arguments)

    return matmul


# matmul(x float32 [T, K], words, scales, bias, out, first, end, num_parts): as quantized_matmul. Words are
# int32, or uint32 where groups have offsets: of four levels of 8 bits [P, K / 4, WIDTH], with 128 added to
# signed ones, or of eight of 4 bits [P, K / 8, WIDTH]. At least GROUP numbers share a scale.
integer_matmul = _matmul_function(PLAIN)
# columns of out = act(gate) * up, of panels dealt as those of panel_silu
integer_silu = _matmul_function(SILU)
integer_gelu_tanh = _matmul_function(GELU_TANH)
