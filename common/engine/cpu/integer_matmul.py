"""Kernels that multiply rows, as 16-bit integers, with panels of small integers."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.group_scales import count_groups
from common.engine.cpu.integer_panel import integer_tile
from common.engine.cpu.integer_rows import split_group
from common.engine.cpu.jit import Compiled, kernel, part
from common.engine.cpu.memory import flat
from common.engine.cpu.panel import PLAIN
from common.engine.cpu.panel_items import items_function, shift_of
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP, NIBBLES_IN_WORD
from common.engine.cpu.target import host_target

ROWS = (host_target().integer_tile_rows, 4, 3, 2, 1)  # of a tile
_IN_PAIRS = host_target().integer_dot == "pairs"


class _Form(NamedTuple):
    """Way to multiply rows: the digits of their numbers, the rows of tiles, and the levels of a word."""

    name: str
    digit: Any
    num_digits: int
    tiles: tuple[int, ...]
    in_word: int


def _form(in_word: int) -> _Form:
    digit, num_digits = (np.int16, 1) if _IN_PAIRS else (np.int8, 2)
    return _Form(f"integer.{in_word}", digit, num_digits, ROWS, in_word)


# levels of one row come apart for it alone: into bytes by 3 instructions a word, into pairs by 7
_ONE_ROW = _Form("integer.one", np.int8, 2, (1,), NIBBLES_IN_WORD)


def _split_function(in_word: int) -> Compiled:
    """Make the part that writes rows as digits."""

    @part(variant=str(in_word))
    def split_rows(first, end, x, digits, scales, sums, offsets):  # type: ignore[no-untyped-def]
        depth, numbers, target = x.shape[1], flat(x), flat(digits)
        groups = depth // GROUP
        for group in range(first * groups, end * groups):
            at = group * GROUP
            to = at + group // groups * depth * (digits.shape[1] - 1)
            split_group(numbers, at, target, to, depth, scales, sums, offsets, group, in_word)

    return split_rows


def _tile_function(rows: int, kind: int, form: _Form) -> Compiled:
    """Make a function that runs tiles of `rows` rows from `row` on and returns the first row left."""
    in_word = form.in_word

    @part(variant=f"{form.name}.{rows}.{kind}")
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


def _panels_function(kind: int, form: _Form) -> Compiled:
    """Make the part that runs a thread's panels; `kind` as in panel_tile."""
    make_tile = partial(_tile_function, kind=kind, form=form)
    run_items = items_function(make_tile, form.tiles, kind, f"{form.name}.{kind}")

    @part(variant=f"{form.name}.{kind}")
    def run_panels(  # type: ignore[no-untyped-def]
        first_item, end_item, rows, words, scales, bias, out, first_column, end_column, num_parts
    ):
        tokens, depth = rows[0].shape[0], rows[0].shape[2]
        x = (flat(rows[0]), rows[1], rows[2], rows[3])
        shift = shift_of(depth, count_groups(scales, depth), GROUP)
        given = (x, depth, flat(words), flat(scales), shift)
        run_items(
            first_item, end_item, given, tokens, bias, out, first_column, end_column, num_parts
        )

    return run_panels


def _form_function(kind: int, form: _Form) -> Compiled:
    """Make the part that multiplies all rows of x with all panels, in one form."""
    split_rows, run_panels = _split_function(form.in_word), _panels_function(kind, form)
    digit, num_digits = form.digit, form.num_digits

    @part(variant=f"{form.name}.{kind}")
    def multiply(x, words, scales, bias, out, first_column, end_column, num_parts):  # type: ignore[no-untyped-def]
        tokens, depth = x.shape
        digits, groups = np.empty((tokens, num_digits, depth), digit), tokens * depth // GROUP
        x_scales, sums = np.empty(groups, np.float32), np.empty(groups, np.int32)
        offsets = np.empty(groups, np.float32)
        parts = (x, digits, x_scales, sums, offsets)
        if tokens == 1:
            split_rows(0, 1, *parts)
        else:
            in_parallel(tokens, split_rows, parts)
        # not flat yet: the arrays must live until the end
        rows = (digits, x_scales, sums, offsets)
        arguments = (rows, words, scales, bias, out, first_column, end_column, num_parts)
        in_parallel(words.shape[0] * num_parts, run_panels, arguments)

    return multiply


def _matmul_function(kind: int) -> Callable[..., None]:
    """Make the kernel that multiplies all rows of x with all panels."""
    by_bytes = _form_function(kind, _form(BYTES_IN_WORD))
    by_nibbles = _form_function(kind, _form(NIBBLES_IN_WORD))
    one_by_nibbles = _form_function(kind, _ONE_ROW) if _IN_PAIRS else by_nibbles

    @kernel(variant=str(kind))
    def matmul(x, words, scales, bias, out, first_column, end_column, num_parts):  # type: ignore[no-untyped-def]
        if words.shape[1] * BYTES_IN_WORD == x.shape[1]:
            by_bytes(x, words, scales, bias, out, first_column, end_column, num_parts)
        elif x.shape[0] == 1:
            one_by_nibbles(x, words, scales, bias, out, first_column, end_column, num_parts)
        else:
            by_nibbles(x, words, scales, bias, out, first_column, end_column, num_parts)

    return matmul


# matmul(x float32 [T, K], words, scales, bias, out, first, end, num_parts): as quantized_matmul. Words are
# int32, or uint32 where groups have offsets: of four levels of 8 bits [P, K / 4, WIDTH], with 128 added to
# signed ones, or of eight of 4 bits [P, K / 8, WIDTH]. At least GROUP numbers share a scale.
integer_matmul = _matmul_function(PLAIN)
# columns of out = act(gate) * up, of panels dealt as those of panel_silu
integer_silu = _matmul_function(SILU)
integer_gelu_tanh = _matmul_function(GELU_TANH)
