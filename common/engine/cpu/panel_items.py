"""Loop over the items of a product: some of its rows, multiplied with one panel, whatever the panel holds."""

from collections.abc import Callable

import numpy as np

from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import Compiled, part
from common.engine.cpu.memory import flat, scratch
from common.engine.cpu.panel import PLAIN, WIDTH

# tile(given, row, end, panel, bias, out, column, width) runs tiles of its rows and returns the first row left
MakeTile = Callable[[int], Compiled]


def items_function(make_tile: MakeTile, sizes: tuple[int, ...], kind: int, name: str) -> Compiled:
    """Make the part run(first_item, end_item, given, tokens, bias, out, first_column, end_column, num_parts).

    `sizes` are the rows of five tiles, falling to 1, or 1 alone. `make_tile` makes the part of each;
    `given` is what the product reads. `kind` is as in panel_tile. `name` is that of the kind of panels.
    """
    most, rest = make_tile(sizes[0]), _rest_function([make_tile(n) for n in sizes[1:]], name)
    columns, tile_rows = WIDTH if kind == PLAIN else LANES, sizes[0]

    @part(variant=name)
    def run_items(  # type: ignore[no-untyped-def]
        first_item, end_item, given, tokens, bias, out, first_column, end_column, num_parts
    ):
        width, flat_out, b = out.shape[1], flat(out), scratch(np.float32, WIDTH)
        for item in range(first_item, end_item):
            of_tokens, panel = item % num_parts, item // num_parts
            column = first_column + panel * columns
            for i in range(WIDTH):
                b[i] = bias[panel * WIDTH + i] if i < bias.shape[0] else np.float32(0)
            row, end = tokens * of_tokens // num_parts, tokens * (of_tokens + 1) // num_parts
            first, to, stride, begin = row, flat_out, width, column
            if column + columns > end_column:
                # the last panel has outputs that nobody wants
                to = np.empty((end - row) * columns, out.dtype)
                stride, begin = columns, -row * columns
            row = most(given, row, end, panel, b, to, begin, stride)
            if first < row < end and end - row not in sizes:
                # some rows once more, the same bits: two tiles that are small would take longer
                row = most(given, end - tile_rows, end, panel, b, to, begin, stride)
            rest(given, row, end, panel, b, to, begin, stride)
            if column + columns > end_column:
                _copy_wanted(to, columns, out, first, end, column, end_column - column)

    return run_items


def _rest_function(tiles: list[Compiled], name: str) -> Compiled:
    """Make a function that runs smaller tiles over the last rows, fewer than fill a whole tile."""
    if not tiles:
        return _run_nothing
    fewer, few, two, one = tiles

    @part(variant=name)
    def run(given, row, end, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
        row = fewer(given, row, end, panel, bias, out, column, width)
        row = few(given, row, end, panel, bias, out, column, width)
        row = two(given, row, end, panel, bias, out, column, width)
        one(given, row, end, panel, bias, out, column, width)

    return run


@part()
def _run_nothing(given, row, end, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
    """Stand for the smaller tiles where tiles have one row."""


@part()
def _copy_wanted(results, columns, out, first, end, column, wanted):  # type: ignore[no-untyped-def]
    """Copy a last panel's results for rows first to end to the `wanted` columns from `column` on."""
    for row in range(first, end):
        for i in range(wanted):
            out[row, column + i] = results[(row - first) * columns + i]


@part()
def shift_of(depth, num_scales, unit):  # type: ignore[no-untyped-def]
    """Return log2 of the units of a row, of `unit` numbers each, that share a scale."""
    shift = 0
    while num_scales * unit << shift < depth:
        shift += 1
    return shift
