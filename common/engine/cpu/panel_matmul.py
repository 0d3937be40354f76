"""Matrix products of many rows: every thread lays out panels of weights and runs all rows against them."""

from collections.abc import Callable

import numba
import numpy as np

from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import inlined, kernel
from common.engine.cpu.panel import TILE_ROWS, WIDTH, lay_out, panel_tile

OUTPUTS = WIDTH  # must divide the number of rows of weights
DEPTH = 2 * LANES  # must divide the length of a row
_WORD = 4  # bytes


def _tile_function(rows: int) -> Callable[..., int]:
    """Tiles of so many rows, from `row` on, while there are that many before `end`; the first row left."""

    def run(x, row, end, depth, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
        while row + rows <= end:
            panel_tile(x, row * depth, depth, panel, bias, out, row * width + column, width, rows)
            row += rows
        return row

    return inlined(run, str(rows))


_twelve, _eight, _four, _two, _one = (_tile_function(rows) for rows in (TILE_ROWS, 8, 4, 2, 1))


@kernel()
def panel_matmul(x, w, bias, out, num_parts):  # type: ignore[no-untyped-def]
    """out [T, N] = x [T, K] @ w [N, K]^T + bias (float32 [N], or empty for none); sums in float32.

    N is a multiple of OUTPUTS, K of DEPTH. Rows are cut into `num_parts`, for which panels
    are laid out anew. A result depends on neither the number of rows nor of parts.
    """
    tokens, depth, width = x.shape[0], x.shape[1], w.shape[0]
    flat_x, flat_w, flat_out = x.reshape(-1), w.reshape(-1), out.reshape(-1)
    pack = _WORD // x.itemsize
    for item in numba.prange(width // WIDTH * num_parts):
        part, column = item % num_parts, item // num_parts * WIDTH
        panel = np.empty(depth * WIDTH, w.dtype)
        for first in range(0, depth, LANES * pack):
            for half in range(0, WIDTH, LANES):
                source = (column + half) * depth + first
                lay_out(flat_w, source, depth, panel, first * WIDTH + half * pack)
        biases = np.zeros(WIDTH, np.float32)
        for i in range(min(WIDTH, bias.shape[0])):
            biases[i] = bias[column + i]
        row, end = tokens * part // num_parts, tokens * (part + 1) // num_parts
        row = _twelve(flat_x, row, end, depth, panel, biases, flat_out, column, width)
        row = _eight(flat_x, row, end, depth, panel, biases, flat_out, column, width)
        row = _four(flat_x, row, end, depth, panel, biases, flat_out, column, width)
        row = _two(flat_x, row, end, depth, panel, biases, flat_out, column, width)
        _one(flat_x, row, end, depth, panel, biases, flat_out, column, width)
