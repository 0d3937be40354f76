"""Rows of an attention work item, as parts: set up before its tiles, and written out behind them."""

from collections.abc import Callable

import numpy as np

from common.engine.cpu import vector as vec
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import part
from common.engine.cpu.softmax import LOWEST_PEAK

Jitable = Callable[..., None]


def begin_function(head_dim: int, value_dim: int, group: int) -> Jitable:
    """Make the function that sets up an item's rows: queries, sums, and the first position not seen."""

    @part(variant=f"{head_dim}-{value_dim}-{group}")
    def begin_rows(query, head, position, padded, q, acc, peak, norm, limits):  # type: ignore[no-untyped-def]
        n = query.shape[0] * group
        for r in range(padded):
            limits[r] = position + min(r, n - 1) // group + 1
            peak[r] = LOWEST_PEAK
        for i in range(padded * head_dim):
            q[i] = 0
        for i in range(padded * value_dim):
            acc[i] = 0
        for i in range(padded * LANES):
            norm[i] = 0
        for r in range(n):
            vec.copy_row(query[r // group, head * group + r % group], q, r * head_dim, head_dim)

    return begin_rows


def end_function(value_dim: int, group: int) -> Jitable:
    """Make the function that writes an item's rows: weighted sums of values over sums of weights."""

    @part(variant=f"{value_dim}-{group}")
    def write_rows(acc, norm, out, head):  # type: ignore[no-untyped-def]
        for r in range(out.shape[0] * group):
            row = out[r // group, head * group + r % group]
            total = np.float32(0)
            for i in range(r * LANES, (r + 1) * LANES):
                total += norm[i]
            for d in range(value_dim):
                row[d] = vec.narrow(row[d], acc[r * value_dim + d] / total)

    return write_rows
