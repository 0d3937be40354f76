"""Kernels on weights in panels: products, gated products, laying out, and reading rows back."""

from collections.abc import Callable

import numpy as np

from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.memory import flat, scratch
from common.engine.cpu.panel import PLAIN, TILE_ROWS, WIDTH, lay_out, panel_tile
from common.engine.cpu.parallel import in_parallel

# rows of a tile; the first with WIDTH fills the registers
ROWS = (12, 8, 4, 2, 1) if TILE_ROWS == 12 else (6, 4, 3, 2, 1)


def _tile_function(rows: int, kind: int) -> Callable[..., int]:
    """Make a function that runs tiles of `rows` rows from `row` on and returns the first row left."""

    @part(variant=f"{rows}.{kind}")
    def run(x, row, end, depth, panels, panel_at, bias, out, column, width):  # type: ignore[no-untyped-def]
        while row + rows <= end:
            x_at, out_at = row * depth, row * width + column
            panel_tile(x, x_at, depth, panels, panel_at, bias, out, out_at, width, rows, kind)
            row += rows
        return row

    return run


def _rest_function(kind: int) -> Callable[..., None]:
    """Make a function that runs smaller tiles over the last rows, fewer than fill a whole tile."""
    fewer, few, two, one = (_tile_function(n, kind) for n in ROWS[1:])

    @part(variant=str(kind))
    def run(x, row, end, depth, panels, panel_at, bias, out, column, width):  # type: ignore[no-untyped-def]
        row = fewer(x, row, end, depth, panels, panel_at, bias, out, column, width)
        row = few(x, row, end, depth, panels, panel_at, bias, out, column, width)
        row = two(x, row, end, depth, panels, panel_at, bias, out, column, width)
        one(x, row, end, depth, panels, panel_at, bias, out, column, width)

    return run


def _matmul_function(kind: int) -> Callable[..., None]:
    """Make the kernel that multiplies all rows of x with all panels; `kind` as in panel_tile."""
    most, rest = _tile_function(TILE_ROWS, kind), _rest_function(kind)
    columns = WIDTH if kind == PLAIN else LANES

    @part(variant=str(kind))
    def run_panels(first_item, end_item, x, panels, bias, out, num_parts):  # type: ignore[no-untyped-def]
        tokens, depth, width = x.shape[0], x.shape[1], out.shape[1]
        flat_x, flat_panels, flat_out = flat(x), flat(panels), flat(out)
        b = scratch(np.float32, WIDTH)
        for item in range(first_item, end_item):
            of_tokens, panel = item % num_parts, item // num_parts
            at, column = panel * WIDTH * depth, panel * columns
            for i in range(WIDTH):
                b[i] = bias[panel * WIDTH + i] if i < bias.shape[0] else np.float32(0)
            row, end = tokens * of_tokens // num_parts, tokens * (of_tokens + 1) // num_parts
            first, to, stride, begin = row, flat_out, width, column
            is_cut = column + columns > width
            if is_cut:
                # the last panel has outputs that nobody wants
                to = np.empty((end - row) * columns, out.dtype)
                stride, begin = columns, -row * columns
            row = most(flat_x, row, end, depth, flat_panels, at, b, to, begin, stride)
            if row > first and end - row not in ROWS:
                # some rows once more, the same bits: two tiles that are small would take longer
                row = most(
                    flat_x, end - TILE_ROWS, end, depth, flat_panels, at, b, to, begin, stride
                )
            rest(flat_x, row, end, depth, flat_panels, at, b, to, begin, stride)
            if is_cut:
                for row in range(first, end):
                    for i in range(width - column):
                        flat_out[row * width + column + i] = to[(row - first) * columns + i]

    @kernel(variant=str(kind))
    def matmul(x, panels, bias, out, num_parts):  # type: ignore[no-untyped-def]
        in_parallel(panels.shape[0] * num_parts, run_panels, (x, panels, bias, out, num_parts))

    return matmul


# matmul(x [T, K], panels [P, K / pack, WIDTH, pack], bias float32 [P * WIDTH] or empty for none,
# out [T, N], num_parts): out = x @ weights^T + bias, sums in float32. x is held as packed.partner_of says;
# N may end within the last panel. Rows are cut into `num_parts`, each of which reads all panels. A result
# depends on neither the number of rows nor of parts.
panel_matmul = _matmul_function(PLAIN)
# out [T, N / 2] = act(gate) * up, where every panel holds LANES outputs of the gate, then as many of up
panel_silu = _matmul_function(SILU)
panel_gelu_tanh = _matmul_function(GELU_TANH)


@kernel()
def lay_out_panels(rows, panels):  # type: ignore[no-untyped-def]
    """Fill `panels` [N / WIDTH, words, WIDTH] from `rows` [N, words], both uint32."""
    in_parallel(panels.shape[0], _lay_out_some, (rows, panels))


@part()
def _lay_out_some(first_panel, end_panel, rows, panels):  # type: ignore[no-untyped-def]
    words = rows.shape[1]
    whole = words // LANES * LANES
    flat_rows, flat_panels = flat(rows), flat(panels)
    for panel in range(first_panel, end_panel):
        for first in range(0, whole, LANES):
            for half in range(0, WIDTH, LANES):
                at = (panel * WIDTH + half) * words + first
                panel_at = (panel * words + first) * WIDTH + half
                lay_out(flat_rows, at, words, flat_panels, panel_at, WIDTH)
        for word in range(whole, words):
            for lane in range(WIDTH):
                panels[panel, word, lane] = rows[panel * WIDTH + lane, word]


@kernel()
def rows_of_panels(numbers, panels, out):  # type: ignore[no-untyped-def]
    """out [T, words] = rows `numbers` (int64 [T]) of `panels` [N / WIDTH, words, WIDTH]; all uint32."""
    in_parallel(numbers.shape[0], _read_rows, (numbers, panels, out))


@part(are_distinct=True)
def _read_rows(first, end, numbers, panels, out):  # type: ignore[no-untyped-def]
    for t in range(first, end):
        panel, lane = numbers[t] // WIDTH, numbers[t] % WIDTH
        for word in range(panels.shape[1]):
            out[t, word] = panels[panel, word, lane]
