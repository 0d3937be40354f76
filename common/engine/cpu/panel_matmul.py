"""Kernels on weights in panels: products, gated products, laying out, and reading rows back."""

from collections.abc import Callable
from functools import partial

from common.engine.cpu import vector as vec
from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import Compiled, kernel, part
from common.engine.cpu.memory import flat
from common.engine.cpu.panel import PLAIN, TILE_ROWS, WIDTH, lay_out, panel_tile
from common.engine.cpu.panel_items import items_function
from common.engine.cpu.parallel import in_parallel

# rows of a tile; the first with WIDTH fills the registers
ROWS = (12, 8, 4, 2, 1) if TILE_ROWS == 12 else (6, 4, 3, 2, 1)


def _tile_function(rows: int, kind: int) -> Compiled:
    """Make a function that runs tiles of `rows` rows from `row` on and returns the first row left."""

    @part(variant=f"{rows}.{kind}")
    def run(given, row, end, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
        x, depth, panels = given
        panel_at = panel * WIDTH * depth
        while row + rows <= end:
            x_at, out_at = row * depth, row * width + column
            panel_tile(x, x_at, depth, panels, panel_at, bias, out, out_at, width, rows, kind)
            row += rows
        return row

    return run


def _matmul_function(kind: int) -> Callable[..., None]:
    """Make the kernel that multiplies all rows of x with all panels; `kind` as in panel_tile."""
    run_items = items_function(partial(_tile_function, kind=kind), ROWS, kind, f"full.{kind}")

    @part(variant=str(kind))
    def run_panels(first_item, end_item, x, panels, bias, out, num_parts):  # type: ignore[no-untyped-def]
        given, tokens, width = (flat(x), x.shape[1], flat(panels)), x.shape[0], out.shape[1]
        run_items(first_item, end_item, given, tokens, bias, out, 0, width, num_parts)

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
    """out float32 [T, K] = rows `numbers` (int64 [T]) of `panels` [P, K / pack, WIDTH, pack]."""
    in_parallel(numbers.shape[0], _read_rows, (numbers, panels, out))


@part(are_distinct=True)
def _read_rows(first, end, numbers, panels, out):  # type: ignore[no-untyped-def]
    pack = panels.shape[3]
    for t in range(first, end):
        panel, lane = numbers[t] // WIDTH, numbers[t] % WIDTH
        for word in range(panels.shape[1]):
            for i in range(pack):
                out[t, word * pack + i] = vec.widen(panels[panel, word, lane, i])
