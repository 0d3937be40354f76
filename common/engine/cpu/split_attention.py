"""Paged attention of decode steps with few sequences: threads share out segments of contexts.

attention_kernel.py gives a thread whole KV heads, of which one sequence of a small model has three. Here a
thread takes some segments of all heads and leaves their sums in memory (Flash-Decoding, Dao et al. 2023).
Then the rows are shared out, and their segments merged in order. The other kernel does both in one go. So
a row has the same bits, and a step may choose.
"""

from functools import lru_cache

import numpy as np
from numba import types

from common.engine.cpu import softmax
from common.engine.cpu import vector as vec
from common.engine.cpu.attention_kernel import Kernel, signature_of
from common.engine.cpu.attention_rows import begin_function, clear_function, sum_of_weights
from common.engine.cpu.attention_tiles import SEGMENT, Jitable, Shape, segment_function
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.latent_tiles import values_function
from common.engine.cpu.memory import scratch
from common.engine.cpu.packed import partner_of
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.score_extras import first_function, row_functions
from common.engine.cpu.softmax import TILE


@lru_cache(maxsize=16)
def split_kernel(shape: Shape, storage: str) -> Kernel:
    """Compile the kernel for one shape, as `attention_kernel` does."""
    i32, f32, i64 = types.int32, types.float32, types.int64
    between = (types.Array(f32, 1, "C"),) * 3
    layout = types.Array(i32, 2, "C"), types.Array(i32, 1, "C"), *between, i64
    signature = signature_of(shape, storage, *layout)
    parts = _run_function(shape), _merge_function(shape)
    return _kernel_function(shape, *parts, signature, f"{shape}-{storage}")


def _kernel_function(
    shape: Shape, run_slices: Jitable, merge_rows: Jitable, signature: types.Type, variant: str
) -> Kernel:
    # query [S, heads, dim], out [S, heads, value_dim], tables and contexts [S]; keys and values as in
    # attention_kernel.py; acc, peaks, norms: float32 memory for segments' sums of values, maxima and lanes of
    # weights, of all rows of a segment after those of the one before; slices: runs of the first part
    @part(variant=variant)
    def run_both(  # type: ignore[no-untyped-def]
        query, keys, values, out, tables, contexts, acc, peaks, norms, slices, scale, form
    ):  # fmt: skip
        held = query, keys, values, tables, contexts
        in_parallel(slices, run_slices, (slices, *held, acc, peaks, norms, scale, form))
        in_parallel(
            query.shape[0] * query.shape[1], merge_rows, (out, contexts, acc, peaks, norms, form)
        )

    if shape.has_extras:

        @kernel(signature=signature, variant=variant)
        def attend_with_extras(  # type: ignore[no-untyped-def]
            query, keys, values, out, tables, contexts, acc, peaks, norms, slices, scale,
            window, chunk, cap, sinks, slopes,
        ):  # fmt: skip
            form = window, chunk, cap, sinks, slopes
            run_both(
                query, keys, values, out, tables, contexts, acc, peaks, norms, slices, scale, form
            )

        return attend_with_extras

    @kernel(signature=signature, variant=variant)
    def attend(  # type: ignore[no-untyped-def]
        query, keys, values, out, tables, contexts, acc, peaks, norms, slices, scale, window
    ):  # fmt: skip
        run_both(
            query, keys, values, out, tables, contexts, acc, peaks, norms, slices, scale, window
        )

    return attend


def _run_function(shape: Shape) -> Jitable:
    """Make the function for the first part: segments whose middle lies in some of `slices` equal ones."""
    _, head_dim, value_dim, group, *_ = shape.block
    run_one, numbers = _segment_function(shape), group * head_dim
    begin_rows, partner = begin_function(head_dim, group), np.dtype(partner_of(shape.storage))
    values_of = values_function(shape.block, shape.storage)
    first_of = first_function(has_extras=shape.has_extras)

    @part(variant=f"{shape}")
    def run_slices(  # type: ignore[no-untyped-def]
        first_slice, end_slice, slices, query, keys, values, tables, contexts,
        acc, peaks, norms, scale, form,
    ):  # fmt: skip
        kv_heads, held, total, done = keys.shape[1], values_of(values), 0, 0
        q, limits, ready = np.empty(numbers, partner), np.empty(group, np.int64), -1
        for seq in range(contexts.shape[0]):
            total += (_end(contexts[seq]) - first_of(form, contexts[seq]) // TILE) * kv_heads
        for seq in range(contexts.shape[0]):
            context, start = np.int64(contexts[seq]), first_of(form, contexts[seq]) // TILE
            for index in range(start * TILE // SEGMENT, (context - 1) // SEGMENT + 1):
                for head in range(kv_heads):
                    first, behind = index * SEGMENT, min((index + 1) * SEGMENT, context)
                    size = _end(behind) - max(first // TILE, start)
                    middle = (2 * done + size) * slices
                    done += size
                    if 2 * first_slice * total <= middle < 2 * end_slice * total:
                        if ready != seq * kv_heads + head:
                            ready = seq * kv_heads + head
                            begin_rows(query[seq : seq + 1], head, context - 1, group, q, limits)
                        next_head, next_key = head + 1, max(first, start * TILE)
                        if next_head == kv_heads:
                            next_head, next_key = 0, behind
                        row = (index * query.shape[0] + seq) * query.shape[1] + head * group
                        run_one(
                            q, limits, max(first, start * TILE), behind, keys, held, tables[seq],
                            head, next_head, next_key, acc[row * value_dim :], peaks[row:],
                            norms[row * LANES :], scale, form,
                        )  # fmt: skip

    return run_slices


@part(allocates=False)
def _end(positions):  # type: ignore[no-untyped-def]
    """Return the number of tiles that so many positions begin."""
    return (np.int64(positions) + TILE - 1) // TILE


def _segment_function(shape: Shape) -> Jitable:
    """Make the function for one segment of a sequence and a KV head."""
    group, tile = shape.block.group, shape.of_decode
    held = np.dtype(partner_of(shape.storage))
    begin_form, _ = row_functions(group, has_extras=shape.has_extras)
    clear_rows, run_segment = clear_function(shape.block.value_dim), segment_function(shape, tile)
    most_scores = tile.rows * TILE

    # a form with extras has arrays for its rows
    @part(variant=f"{shape}", allocates=shape.has_extras)
    def run_one(  # type: ignore[no-untyped-def]
        q, limits, first, end, keys, values, table, head, next_head, next_key, acc, peak, norm,
        scale, form,
    ):  # fmt: skip
        s, p = scratch(np.float32, most_scores), scratch(held, most_scores)
        seen = begin_form(form, head, limits, group, peak, norm)
        clear_rows(group, acc, peak, norm)  # sinks come in when segments are merged
        run_segment(
            q, group, first, end, limits, seen, keys, values, head, table, next_head, next_key,
            scale, acc, peak, norm, s, p,
        )  # fmt: skip

    return run_one


def _merge_function(shape: Shape) -> Jitable:
    """Make the function for the second part, which merges segments of some rows and writes the rows."""
    value_dim = shape.block.value_dim
    first_of = first_function(has_extras=shape.has_extras)
    begin_form, _ = row_functions(1, has_extras=shape.has_extras)
    clear_rows = clear_function(value_dim)

    @part(variant=f"{shape}", allocates=shape.has_extras)
    def merge_rows(first_row, end_row, out, contexts, acc, peaks, norms, form):  # type: ignore[no-untyped-def]
        heads, num_rows = out.shape[1], out.shape[0] * out.shape[1]
        total, norm = scratch(np.float32, value_dim), scratch(np.float32, LANES)
        peak, limits = scratch(np.float32, 1), scratch(np.int64, 1)
        for row in range(first_row, end_row):
            context = np.int64(contexts[row // heads])
            clear_rows(1, total, peak, norm)
            limits[0] = context
            begin_form(form, row % heads, limits, 1, peak, norm)
            start = first_of(form, context) // TILE * TILE
            for index in range(start // SEGMENT, (context - 1) // SEGMENT + 1):
                own = index * num_rows + row
                softmax.merge_row(acc, peaks, norms, own, total, peak, norm, 0, value_dim)
            vec.divide_row(total, 0, sum_of_weights(norm, 0), out, row * value_dim, value_dim)

    return merge_rows
