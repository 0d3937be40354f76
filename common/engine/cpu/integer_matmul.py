"""Kernels that multiply rows, as 16-bit integers, with panels of small integers."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.arrays import Array
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
_GROUP_BYTES = 12  # scale, sum and offset


class IntegerRows(NamedTuple):
    """Rows of x as integers: digits [T, 1 or 2, K], and of each group the scale, the sum and the offset."""

    digits: Array
    scales: Array  # [T * K / GROUP] float32, as the offsets
    sums: Array  # int32
    offsets: Array


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


_BY_BYTES, _BY_NIBBLES = _form(BYTES_IN_WORD), _form(NIBBLES_IN_WORD)
# levels of one row come apart for it alone: into bytes by 3 instructions a word, into pairs by 7
_ONE_ROW = _Form("integer.one", np.int8, 2, (1,), NIBBLES_IN_WORD) if _IN_PAIRS else _BY_NIBBLES


def _split_kernel(form: _Form) -> Compiled:
    """Make the kernel that writes rows as digits."""
    in_word = form.in_word

    @part(variant=form.name)
    def split_rows(first, end, x, digits, scales, sums, offsets):  # type: ignore[no-untyped-def]
        depth, numbers, target = x.shape[1], flat(x), flat(digits)
        groups = depth // GROUP
        for group in range(first * groups, end * groups):
            at = group * GROUP
            to = at + group // groups * depth * (digits.shape[1] - 1)
            split_group(numbers, at, target, to, depth, scales, sums, offsets, group, in_word)

    @kernel(variant=form.name)
    def split(x, digits, scales, sums, offsets):  # type: ignore[no-untyped-def]
        in_parallel(x.shape[0], split_rows, (x, digits, scales, sums, offsets))

    return split


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


def _product_kernel(kind: int, form: _Form) -> Compiled:
    """Make the kernel that multiplies rows of digits with all panels, in one form."""
    run_panels = _panels_function(kind, form)

    @kernel(variant=f"{form.name}.{kind}")
    def multiply(  # type: ignore[no-untyped-def]
        digits,
        scales,
        sums,
        offsets,
        words,
        panel_scales,
        bias,
        out,
        first_column,
        end_column,
        num_parts,
    ):
        rows = (digits, scales, sums, offsets)
        arguments = (rows, words, panel_scales, bias, out, first_column, end_column, num_parts)
        in_parallel(words.shape[0] * num_parts, run_panels, arguments)

    return multiply


class IntegerMatmul:
    """Product of one kind, in one form: of `split`, then `multiply`.

    split(x float32 [T, K], *rows); multiply(*rows, words, scales, bias, out, first, end, num_parts). Together
    they are quantized_matmul. Words are int32, or uint32 where groups have offsets: of four levels of 8 bits
    [P, K / 4, WIDTH], with 128 added to signed ones, or of eight of 4 bits [P, K / 8, WIDTH]. At least GROUP
    numbers share a scale.
    """

    def __init__(self, split: Compiled, kind: int, form: _Form) -> None:
        self.split, self.multiply = split, _product_kernel(kind, form)
        self._digit, self._num_digits = np.dtype(form.digit), form.num_digits

    def row_bytes(self, depth: int) -> int:
        """Return the bytes of memory that a row of `depth` numbers takes."""
        digits: int = self._num_digits * depth * self._digit.itemsize
        return digits + depth // GROUP * _GROUP_BYTES

    def rows_in(self, memory: Array, depth: int) -> IntegerRows:
        """Lay out rows in memory [T, row_bytes] uint8, contiguous."""
        tokens, flat_bytes = len(memory), memory.reshape(-1)
        groups = tokens * depth // GROUP
        ends = np.cumsum([groups * np.float32().itemsize] * 3)
        scales, sums, offsets, digits = np.split(flat_bytes, ends)
        shape = tokens, self._num_digits, depth
        of_digits = digits.view(self._digit).reshape(shape)
        return IntegerRows(
            of_digits, scales.view(np.float32), sums.view(np.int32), offsets.view(np.float32)
        )


def _products(kind: int) -> dict[_Form, IntegerMatmul]:
    return {form: IntegerMatmul(split, kind, form) for form, split in _SPLITS.items()}


_SPLITS = {form: _split_kernel(form) for form in (_BY_BYTES, _BY_NIBBLES, _ONE_ROW)}
_PRODUCTS = {kind: _products(kind) for kind in (PLAIN, SILU, GELU_TANH)}


def integer_product(kind: int, tokens: int, depth: int, words: Array) -> IntegerMatmul:
    """Return the product of `tokens` rows of `depth` numbers; `kind` as in panel_tile."""
    if words.shape[1] * BYTES_IN_WORD == depth:
        return _PRODUCTS[kind][_BY_BYTES]
    return _PRODUCTS[kind][_ONE_ROW if tokens == 1 else _BY_NIBBLES]
