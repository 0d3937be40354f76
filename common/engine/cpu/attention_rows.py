"""Rows of an attention work item, as parts: set up, cleared for a segment, merged behind it, written out."""

from collections.abc import Callable

import numpy as np

from common.engine.cpu import softmax
from common.engine.cpu import vector as vec
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import part
from common.engine.cpu.softmax import LOWEST_PEAK

Jitable = Callable[..., None]


def begin_function(head_dim: int, group: int) -> Jitable:
    """Make the function that sets up an item's rows: queries, and the first position not seen."""

    @part(variant=f"{head_dim}-{group}", allocates=False)
    def begin_rows(query, head, position, padded, q, limits):  # type: ignore[no-untyped-def]
        n = query.shape[0] * group
        for r in range(padded):
            limits[r] = position + min(r, n - 1) // group + 1
        for i in range(n * head_dim, padded * head_dim):
            q[i] = 0
        for r in range(n):
            vec.copy_row(query[r // group, head * group + r % group], q, r * head_dim, head_dim)

    return begin_rows


def clear_function(value_dim: int) -> Jitable:
    """Make the function that clears rows' sums of values, maxima and sums of weights."""

    @part(variant=f"{value_dim}", allocates=False)
    def clear_rows(padded, acc, peak, norm):  # type: ignore[no-untyped-def]
        for r in range(padded):
            peak[r] = LOWEST_PEAK
        for i in range(padded * value_dim):
            acc[i] = 0
        for i in range(padded * LANES):
            norm[i] = 0

    return clear_rows


def merge_function(value_dim: int) -> Jitable:
    """Make the function that adds what a segment gave to rows' totals."""

    @part(variant=f"{value_dim}", allocates=False)
    def merge_rows(padded, acc, peak, norm, total, total_peak, total_norm):  # type: ignore[no-untyped-def]
        for r in range(padded):
            softmax.merge_row(acc, peak, norm, r, total, total_peak, total_norm, r, value_dim)

    return merge_rows


def end_function(value_dim: int, group: int) -> Jitable:
    """Make the function that writes an item's rows: weighted sums of values over sums of weights."""

    @part(variant=f"{value_dim}-{group}", allocates=False)
    def write_rows(acc, norm, out, head):  # type: ignore[no-untyped-def]
        for r in range(out.shape[0] * group):
            row = r // group * out.shape[1] + head * group + r % group
            total = sum_of_weights(norm, r)
            vec.divide_row(acc, r * value_dim, total, out, row * value_dim, value_dim)

    return write_rows


@part(allocates=False)
def sum_of_weights(norm, row):  # type: ignore[no-untyped-def]
    """Add up the lanes of a row's sum of weights."""
    total = np.float32(0)
    for i in range(row * LANES, (row + 1) * LANES):
        total += norm[i]
    return total
