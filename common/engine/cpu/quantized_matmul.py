"""Kernels on weights in panels of small integers: products, gated products, and reading rows back."""

from collections.abc import Callable
from functools import partial

import numpy as np

from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.group_scales import count_groups, read_scale
from common.engine.cpu.jit import Compiled, kernel, part
from common.engine.cpu.memory import flat
from common.engine.cpu.panel import PLAIN, WIDTH
from common.engine.cpu.panel_items import items_function, shift_of
from common.engine.cpu.panel_matmul import ROWS
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP, NIBBLES_IN_WORD, PART
from common.engine.cpu.quantized_panel import group_sum, quantized_tile

_WORD_BITS = 32
_ADDED_BITS = np.int32(-0x7F7F7F80)  # 0x80 in every byte: takes 128 off signed levels


def _tile_function(rows: int, kind: int) -> Compiled:
    """Make a function that runs tiles of `rows` rows from `row` on and returns the first row left."""

    @part(variant=f"{rows}.{kind}")
    def run(given, row, end, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
        x, depth, sums, levels, scales, shift = given
        while row + rows <= end:
            x_at, at = row * depth, row * width + column
            quantized_tile(
                x, x_at, depth, sums, levels, scales, panel, shift, bias, out, at, width, rows, kind
            )
            row += rows
        return row

    return run


@part()
def _sum_groups(x, sums):  # type: ignore[no-untyped-def]
    for group in range(sums.shape[0]):
        sums[group] = group_sum(x, group * GROUP)


def _matmul_function(kind: int) -> Callable[..., None]:
    """Make the kernel that multiplies all rows of x with all panels; `kind` as in panel_tile."""
    run_items = items_function(partial(_tile_function, kind=kind), ROWS, kind, f"quantized.{kind}")

    @part(variant=str(kind))
    def run_panels(  # type: ignore[no-untyped-def]
        first_item, end_item, x, levels, scales, bias, out, first_column, end_column, num_parts
    ):
        (tokens, depth), rows = x.shape, flat(x)
        sums = np.empty(tokens * depth // GROUP if scales.shape[2] > 1 else 0, np.float32)
        _sum_groups(rows, sums)
        shift = shift_of(depth, count_groups(scales, depth), PART)
        given = (rows, depth, sums, flat(levels), flat(scales), shift)
        run_items(
            first_item, end_item, given, tokens, bias, out, first_column, end_column, num_parts
        )

    @kernel(variant=str(kind))
    def matmul(x, levels, scales, bias, out, first_column, end_column, num_parts):  # type: ignore[no-untyped-def]
        count = levels.shape[0] * num_parts
        arguments = (x, levels, scales, bias, out, first_column, end_column, num_parts)
        in_parallel(count, run_panels, arguments)

    return matmul


# matmul(x float32 [T, K], levels, scales, bias float32 [P * WIDTH] or empty for none, out [T, N], first,
# end, num_parts): columns first to end of out = the panels' products; num_parts as in panel_matmul.
# Levels are int8 or uint8 [P, K, WIDTH], or words of 4-bit ones, int32 or uint32 [P, K / 8, WIDTH]. Scales
# are float16 (as int16) or float32 [P, K / n, 1, WIDTH], with offsets [P, K / n, 2, WIDTH]. Those of blocks
# are int8 [P, K / 256 * (2 + groups), 1 or 2, WIDTH] (group_scales.py).
quantized_matmul = _matmul_function(PLAIN)
# columns of out = act(gate) * up, of panels dealt as those of panel_silu
quantized_silu = _matmul_function(SILU)
quantized_gelu_tanh = _matmul_function(GELU_TANH)


@kernel()
def rows_of_quantized(numbers, levels, scales, out):  # type: ignore[no-untyped-def]
    """out float32 [T, K] = rows `numbers` (int64 [T]) of quantized panels, or of those of integer_matmul."""
    in_parallel(numbers.shape[0], _read_rows, (numbers, levels, scales, out))


@part(are_distinct=True)
def _read_rows(first, end, numbers, levels, scales, out):  # type: ignore[no-untyped-def]
    depth = out.shape[1]
    in_word, groups = depth // levels.shape[1], count_groups(scales, depth)
    bits, has_offsets = 4 if in_word == NIBBLES_IN_WORD else 8, scales.shape[2] > 1
    group, stored = depth // groups, flat(scales)
    for t in range(first, end):
        panel, lane = numbers[t] // WIDTH, numbers[t] % WIDTH
        for g in range(groups):
            scale, offset = read_scale(scales, stored, panel, g, groups, 0, lane), np.float32(0)
            if has_offsets:
                offset = read_scale(scales, stored, panel, g, groups, 1, lane)
            for k in range(g * group, (g + 1) * group):
                word = np.int32(levels[panel, k // in_word, lane])
                if in_word == BYTES_IN_WORD and not has_offsets:
                    word ^= _ADDED_BITS
                # up, so that the level's sign is the word's, and down again
                top = np.int32(word << (_WORD_BITS - bits * (1 + k % in_word)))
                level = np.int32(top >> (_WORD_BITS - bits))
                if has_offsets:  # no sign, then
                    level = np.int32(level & ((1 << bits) - 1))
                out[t, k] = np.float32(level) * scale + offset
