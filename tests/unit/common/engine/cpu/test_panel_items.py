"""The loop over a product's items computes each row once, or two for one where that saves a tile."""

import numpy as np
import pytest

from common.engine.cpu.jit import Compiled, kernel, part
from common.engine.cpu.panel import PLAIN, WIDTH
from common.engine.cpu.panel_items import items_function
from common.engine.cpu.target import host_target

pytestmark = pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")
SIZES = (6, 4, 3, 2, 1)


def counting(rows: int) -> Compiled:
    """Make a tile that counts how often it was run for each row."""

    @part(variant=f"counting.{rows}")
    def run(given, row, end, panel, bias, out, column, width):  # type: ignore[no-untyped-def]
        while row + rows <= end:
            for i in range(row, row + rows):
                out[i * width + column] += 1
            row += rows
        return row

    return run


run_items = items_function(counting, SIZES, PLAIN, "counting")


@kernel(variant="counting")
def count(bias, out):  # type: ignore[no-untyped-def]
    run_items(0, 1, (0,), out.shape[0], bias, out, 0, out.shape[1], 1)


def test_a_whole_number_of_tiles_computes_no_row_twice() -> None:
    for tokens in range(1, 26):
        counts = np.zeros((tokens, WIDTH), np.int64)
        count(np.zeros(0, np.float32), counts)
        # five rows left over would be two tiles: one of six, with a row that is there already
        twice = 1 if tokens > SIZES[0] and tokens % SIZES[0] == 5 else 0
        assert counts[:, 0].min() == 1
        assert counts[:, 0].sum() == tokens + twice
