"""Kernels that multiply rows, as 16-bit integers, with panels of small integers."""

from collections.abc import Callable

import numpy as np

from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.emit import LANES
from common.engine.cpu.integer_panel import integer_tile
from common.engine.cpu.integer_rows import split_group
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.memory import flat, scratch
from common.engine.cpu.panel import PLAIN, WIDTH
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP, NIBBLES_IN_WORD
from common.engine.cpu.quantized_matmul import copy_wanted

ROWS = (6, 4, 3, 2, 1)  # rows of a tile; the first with WIDTH fills the registers


@part()
def _split_rows(first, end, x, high, low, scales, sums, offsets, is_split):  # type: ignore[no-untyped-def]
    depth = x.shape[1]
    groups = depth // GROUP
    numbers, highs, lows = flat(x), flat(high), flat(low)
    for group in range(first * groups, end * groups):
        if is_split:
            split_group(numbers, group * GROUP, highs, lows, scales, sums, offsets, group, 1)
        else:
            split_group(numbers, group * GROUP, highs, lows, scales, sums, offsets, group, 0)


def _tile_function(rows: int, kind: int, in_word: int) -> Callable[..., int]:
    """Make a function that runs tiles of `rows` rows from `row` on and returns the first row left."""

    @part(variant=f"{rows}.{kind}.{in_word}")
    def run(x, row, end, depth, words, scales, panel, shift, bias, out, column, width):  # type: ignore[no-untyped-def]
        while row + rows <= end:
            at = row * width + column
            integer_tile(
                x,
                row * depth,
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


def _rows_function(kind: int, in_word: int) -> Callable[..., None]:
    """Make a function that runs tiles over all rows of a part."""
    most, fewer, few, two, one = (_tile_function(n, kind, in_word) for n in ROWS)

    @part(variant=f"{kind}.{in_word}")
    def run(x, row, end, depth, words, scales, panel, shift, bias, out, column, width):  # type: ignore[no-untyped-def]
        row = most(x, row, end, depth, words, scales, panel, shift, bias, out, column, width)
        row = fewer(x, row, end, depth, words, scales, panel, shift, bias, out, column, width)
        row = few(x, row, end, depth, words, scales, panel, shift, bias, out, column, width)
        row = two(x, row, end, depth, words, scales, panel, shift, bias, out, column, width)
        one(x, row, end, depth, words, scales, panel, shift, bias, out, column, width)

    return run


@part()
def _shift_of(depth, num_scales):  # type: ignore[no-untyped-def]
    """Return log2 of the groups that share a scale."""
    shift = 0
    while num_scales * GROUP << shift < depth:
        shift += 1
    return shift


def _panels_function(kind: int) -> Callable[..., None]:
    """Make the part that runs a thread's panels; `kind` as in panel_tile."""
    by_bytes, by_nibbles = (_rows_function(kind, n) for n in (BYTES_IN_WORD, NIBBLES_IN_WORD))
    columns = WIDTH if kind == PLAIN else LANES

    @part(variant=str(kind))
    def run_panels(  # type: ignore[no-untyped-def]
        first_item, end_item, rows, words, scales, bias, out, first_column, end_column, num_parts
    ):
        tokens, width, depth = out.shape[0], out.shape[1], rows[0].shape[1]
        x = (flat(rows[0]), flat(rows[1]), rows[2], rows[3], rows[4])
        wor, sca, flat_out = flat(words), flat(scales), flat(out)
        b, shift = scratch(np.float32, WIDTH), _shift_of(depth, scales.shape[1])
        is_by_bytes = words.shape[1] * BYTES_IN_WORD == depth
        for item in range(first_item, end_item):
            of_tokens, panel = item % num_parts, item // num_parts
            column = first_column + panel * columns
            for i in range(WIDTH):
                b[i] = bias[panel * WIDTH + i] if i < bias.shape[0] else np.float32(0)
            row, end = tokens * of_tokens // num_parts, tokens * (of_tokens + 1) // num_parts
            to, stride, begin = flat_out, width, column
            if column + columns > end_column:
                # the last panel has outputs that nobody wants
                to = np.empty((end - row) * columns, out.dtype)
                stride, begin = columns, -row * columns
            if is_by_bytes:
                by_bytes(x, row, end, depth, wor, sca, panel, shift, b, to, begin, stride)
            else:
                by_nibbles(x, row, end, depth, wor, sca, panel, shift, b, to, begin, stride)
            if column + columns > end_column:
                copy_wanted(to, columns, out, row, end, column, end_column - column)

    return run_panels


def _matmul_function(kind: int) -> Callable[..., None]:
    """Make the kernel that multiplies all rows of x with all panels."""
    run_panels = _panels_function(kind)

    @kernel(variant=str(kind))
    def matmul(x, words, scales, bias, out, first_column, end_column, num_parts):  # type: ignore[no-untyped-def]
        tokens, depth = x.shape
        high, low = np.empty((tokens, depth), np.int8), np.empty((tokens, depth), np.int8)
        groups = tokens * depth // GROUP
        x_scales, sums = np.empty(groups, np.float32), np.empty(groups, np.int32)
        offsets = np.empty(groups, np.float32)
        is_split = words.shape[1] * BYTES_IN_WORD != depth
        parts = (x, high, low, x_scales, sums, offsets, is_split)
        if tokens == 1:
            _split_rows(0, 1, *parts)
        else:
            in_parallel(tokens, _split_rows, parts)
        # not flat yet: the arrays must live until the end
        rows = (high, low, x_scales, sums, offsets)
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
