"""Paged attention for the CPU: decode tokens and prefill chunks in one ragged call.

One work item is a tile of queries of one sequence and one KV head. It walks the sequence's blocks once,
TILE positions at a time (attention_tiles.py), so memory is bounded by the tile, not by the context. Query
heads that share a KV head (GQA) are rows of one tile and share its loads. Products run in vector.py's
register tiles.
Only positions that the sequence has written are read from `values`: what a freed block still holds, even
NaN, cannot reach another sequence.
"""

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
from numba import types

from common.engine.cpu.attention_rows import (
    begin_function,
    clear_function,
    end_function,
    merge_function,
)
from common.engine.cpu.attention_tiles import SEGMENT, Jitable, RowTile, Shape, segment_function
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.kv_levels import tail_of
from common.engine.cpu.latent_tiles import Block, values_function
from common.engine.cpu.memory import scratch
from common.engine.cpu.packed import partner_of
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.score_extras import first_function, row_functions
from common.engine.cpu.softmax import TILE

QUERY_TILE = 16

Kernel = Callable[..., None]


def can_compile_kernel(block_size: int, head_dim: int) -> bool:
    """Return True if `block_size` divides TILE, and it and `head_dim` are multiples of LANES."""
    return not (block_size % LANES or head_dim % LANES or TILE % block_size)


def shape_of(
    block_size: int,
    dims: tuple[int, int],
    group: int,
    storage: str,
    *,
    is_latent: bool = False,
) -> Shape:
    """Return what kernels are compiled for: `dims` are channels of a key and a value, `storage` is the numpy
    name of the blocks' dtype. Blocks of latents hold keys alone (latent_tiles.py)."""
    block = Block(block_size, *dims, group, tail_of(storage), is_latent)
    return Shape(block, storage, has_extras=False)


@lru_cache(maxsize=16)
def attention_kernel(shape: Shape, storage: str) -> Kernel:
    """Compile (once per machine, on disk) the kernel for one shape; see can_compile_kernel.

    `storage` is the numpy name of the queries' dtype. The kernel's last arguments are a window, or five
    with extras (score_extras.py).
    """
    run_items = _run_function(
        shape, _item_function(shape, shape.of_decode), _item_function(shape, shape.of_chunk)
    )
    i32 = types.int32
    layout = (types.Array(i32, 2, "C"), *2 * (types.Array(i32, 1, "C"),), types.Array(i32, 2, "C"))
    signature = signature_of(shape, storage, *layout)
    return _kernel_function(shape, run_items, signature, f"{shape}-{storage}")


def _run_function(shape: Shape, decode_one: Jitable, run_chunk: Jitable) -> Jitable:
    """Make the function for some work items, of which single queries have a function of their own."""
    values_of = values_function(shape.block, shape.storage)

    @part(variant=f"{shape}")
    def run_items(  # type: ignore[no-untyped-def]
        first_work, end_work, query, keys, values, out, tables, starts, contexts, items, scale, form
    ):  # fmt: skip
        kv_heads, held = keys.shape[1], values_of(values)
        for work in range(first_work, end_work):
            item, head = work // kv_heads, work % kv_heads
            seq, first, end = items[item, 0], items[item, 1], items[item, 2]
            begin, context = starts[seq] + first, contexts[seq] - (starts[seq + 1] - starts[seq])
            q, o = query[begin : begin + end - first], out[begin : begin + end - first]
            if end - first == 1:
                decode_one(q, keys, held, o, tables[seq], context + first, head, scale, form)
            else:
                run_chunk(q, keys, held, o, tables[seq], context + first, head, scale, form)

    return run_items


def _kernel_function(
    shape: Shape, run_items: Jitable, signature: types.Type, variant: str
) -> Kernel:
    # query [T, heads, dim], out [T, heads, value_dim], a head's numbers side by side; keys [blocks,
    # kv_heads, dim / pack, size, pack]; values [blocks, kv_heads, size / pack, value_dim, pack];
    # keys of int8 are [blocks, kv_heads, dim / 4 + 1, size, 4], values [.., size, value_dim / 4 + 1, 4];
    # of latents values have no channels, and nobody reads them;
    # items [n, 3]: sequence, first query, end query (within the sequence), QUERY_TILE at most
    if shape.has_extras:

        @kernel(signature=signature, variant=variant)
        def attend_with_extras(  # type: ignore[no-untyped-def]
            query, keys, values, out, tables, starts, contexts, items, scale,
            window, chunk, cap, sinks, slopes,
        ):  # fmt: skip
            form = window, chunk, cap, sinks, slopes
            given = query, keys, values, out, tables, starts, contexts, items, scale, form
            in_parallel(items.shape[0] * keys.shape[1], run_items, given)

        return attend_with_extras

    @kernel(signature=signature, variant=variant)
    def attend(query, keys, values, out, tables, starts, contexts, items, scale, window):  # type: ignore[no-untyped-def]
        given = query, keys, values, out, tables, starts, contexts, items, scale, window
        in_parallel(items.shape[0] * keys.shape[1], run_items, given)

    return attend


def signature_of(shape: Shape, storage: str, *layout: types.Type) -> types.Type:
    """Return explicit types of tensors, `layout` and a form, so that queries of any stride share a kernel."""
    number, f32, i64 = types.Array, types.float32, types.int64
    kind, kv_kind = (numba.from_dtype(np.dtype(name)) for name in (storage, shape.storage))
    tensors = (
        number(kind, 3, "A"),
        number(kv_kind, 5, "C"),
        number(kv_kind, 5, "C"),
        number(kind, 3, "C"),
    )
    extras = (i64, f32, number(f32, 1, "C"), number(f32, 1, "C")) if shape.has_extras else ()
    return types.void(*tensors, *layout, f32, i64, *extras)


def _item_function(shape: Shape, tile: RowTile) -> Jitable:
    """Make the function for a work item: queries at consecutive positions, for one KV head."""
    _, head_dim, value_dim, group, *_ = shape.block
    begin_rows, clear_rows = begin_function(head_dim, group), clear_function(value_dim)
    write_rows = end_function(value_dim, group)
    begin_form, _ = row_functions(group, has_extras=shape.has_extras)
    first_of, run_segments = (
        first_function(has_extras=shape.has_extras),
        _context_function(shape, tile),
    )
    held, rows, most = np.dtype(partner_of(shape.storage)), tile.rows, _most_rows(shape, tile)
    most_lanes = most * LANES

    @part(variant=f"{shape}-{tile}")
    def run_item(query, keys, values, out, table, position, head, scale, form):  # type: ignore[no-untyped-def]
        behind = position + query.shape[0]
        padded = (query.shape[0] * group + rows - 1) // rows * rows
        # too many numbers for a stack, in models with many query heads to a KV head
        q, limits = np.empty(padded * head_dim, held), scratch(np.int64, most)
        total = np.empty(padded * value_dim, np.float32)
        total_peak, total_norm = scratch(np.float32, most), scratch(np.float32, most_lanes)
        begin_rows(query, head, position, padded, q, limits)
        clear_rows(padded, total, total_peak, total_norm)
        seen = begin_form(form, head, limits, padded, total_peak, total_norm)
        start = first_of(form, position + 1) // TILE * TILE
        run_segments(
            q, padded, start, behind, limits, seen, keys, values, head, table, scale,
            total, total_peak, total_norm,
        )  # fmt: skip
        write_rows(total, total_norm, out, head)

    return run_item


def _context_function(shape: Shape, tile: RowTile) -> Jitable:
    """Make the function for all segments that an item's rows see, one after the other."""
    value_dim, has_extras = shape.block.value_dim, shape.has_extras
    clear_rows, merge_rows = clear_function(value_dim), merge_function(value_dim)
    run_segment, held = segment_function(shape, tile), np.dtype(partner_of(shape.storage))
    most, most_scores = _most_rows(shape, tile), tile.rows * TILE
    most_lanes = most * LANES

    @part(variant=f"{shape}-{tile}")
    def run_segments(  # type: ignore[no-untyped-def]
        q, padded, start, behind, limits, seen, keys, values, head, table, scale,
        total, total_peak, total_norm,
    ):  # fmt: skip
        acc = np.empty(padded * value_dim, np.float32)
        peak, norm = scratch(np.float32, most), scratch(np.float32, most_lanes)
        scores, weights = scratch(np.float32, most_scores), scratch(held, most_scores)
        for first in range(start // SEGMENT * SEGMENT, behind, SEGMENT):
            # totals are empty before the first segment, but for sinks: it may be summed right there
            is_merged = has_extras or first > start
            own, own_peak, own_norm = total, total_peak, total_norm
            if is_merged:
                own, own_peak, own_norm = acc, peak, norm
                clear_rows(padded, own, own_peak, own_norm)
            next_head, next_key = head, first + SEGMENT
            if next_key >= behind:
                next_head, next_key = min(head + 1, keys.shape[1] - 1), start
            run_segment(
                q, padded, max(first, start), min(first + SEGMENT, behind), limits, seen,
                keys, values, head, table, next_head, next_key, scale,
                own, own_peak, own_norm, scores, weights,
            )  # fmt: skip
            if is_merged:
                merge_rows(padded, acc, peak, norm, total, total_peak, total_norm)

    return run_segments


def _most_rows(shape: Shape, tile: RowTile) -> int:
    """Return the rows of the longest item, whole tiles of them."""
    return -(-QUERY_TILE * shape.block.group // tile.rows) * tile.rows
