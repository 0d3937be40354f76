"""Paged attention for the CPU: decode tokens and prefill chunks in one ragged call.

One work item is a tile of queries of one sequence and one KV head. It walks the sequence's blocks once,
TILE positions at a time, with the running maximum and sum of FlashAttention's online softmax (Dao et al.
2022), so memory is bounded by the tile, not by the context. Query heads that share a KV head (GQA) are
rows of one tile and share its loads. Products run in vector.py's register tiles.
Only positions that the sequence has written are read from `values`: what a freed block still holds, even
NaN, cannot reach another sequence.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numba
import numpy as np
from numba import types

from common.engine.cpu import scores, softmax
from common.engine.cpu import vector as vec
from common.engine.cpu.attention_rows import begin_function, end_function
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.kv_levels import tail_of
from common.engine.cpu.latent_tiles import Block, turn_function, with_tile
from common.engine.cpu.memory import scratch
from common.engine.cpu.packed import partner_of
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.score_extras import row_functions
from common.engine.cpu.softmax import TILE
from common.engine.cpu.target import host_target

QUERY_TILE = 16
_MAX_ROWS = host_target().attention_rows

Kernel = Callable[..., None]
Jitable = Callable[..., None]


def can_compile_kernel(block_size: int, head_dim: int) -> bool:
    """Return True if `block_size` divides TILE, and it and `head_dim` are multiples of LANES."""
    return not (block_size % LANES or head_dim % LANES or TILE % block_size)


@lru_cache(maxsize=16)
def attention_kernel(
    block_size: int,
    dims: tuple[int, int],
    group: int,
    storage: str,
    *,
    kv_storage: str | None = None,
    has_extras: bool = False,
    is_latent: bool = False,
) -> Kernel:
    """Compile (once per machine, on disk) the kernel for one block shape; see can_compile_kernel.

    `dims` are channels of a key and a value, `storage` is the numpy name of the queries' dtype, `kv_storage`
    that of blocks' if another (int8). Blocks of latents hold keys alone (latent_tiles.py). The kernel's last
    arguments are a window, or with extras five (score_extras.py).
    """
    held = kv_storage or storage
    decode_rows = next(n for n in range(min(group, _MAX_ROWS), 0, -1) if group % n == 0)
    chunk_rows = decode_rows * (_MAX_ROWS // decode_rows)
    # decode steps have few rows to fill the registers with, and chunks follow them
    parts = scores.num_score_parts(decode_rows, dims[0] * np.dtype(held).itemsize // 4)
    block = Block(block_size, *dims, group, tail_of(held), is_latent)
    extras = "-extras" * has_extras
    make = partial(_item_function, block, parts, partner_of(held), extras)
    variant = f"{block}-{storage}-{held}{extras}"
    run_items = _run_function(make(decode_rows), make(chunk_rows), variant)
    run_items = with_tile(run_items, block, held, variant)
    return _kernel_function(run_items, _signature(storage, held, has_extras), variant, has_extras)


def _run_function(decode_one: Jitable, run_chunk: Jitable, variant: str) -> Jitable:
    """Make the function for some work items, of which single queries have a function of their own."""

    @part(variant=variant)
    def run_items(  # type: ignore[no-untyped-def]
        first_work, end_work, query, keys, values, out, tables, starts, contexts, items, scale, form
    ):  # fmt: skip
        kv_heads = keys.shape[1]
        for work in range(first_work, end_work):
            item, head = work // kv_heads, work % kv_heads
            seq, first, end = items[item, 0], items[item, 1], items[item, 2]
            begin, context = starts[seq] + first, contexts[seq] - (starts[seq + 1] - starts[seq])
            q, o = query[begin : begin + end - first], out[begin : begin + end - first]
            if end - first == 1:
                decode_one(q, keys, values, o, tables[seq], context + first, head, scale, form)
            else:
                run_chunk(q, keys, values, o, tables[seq], context + first, head, scale, form)

    return run_items


def _kernel_function(
    run_items: Jitable, signature: types.Type, variant: str, has_extras: bool
) -> Kernel:
    # query [T, heads, dim], out [T, heads, value_dim], a head's numbers side by side; keys [blocks,
    # kv_heads, dim / pack, size, pack]; values [blocks, kv_heads, size / pack, value_dim, pack];
    # keys of int8 are [blocks, kv_heads, dim / 4 + 1, size, 4], values [.., size, value_dim / 4 + 1, 4];
    # of latents values have no channels, and nobody reads them;
    # items [n, 3]: sequence, first query, end query (within the sequence), QUERY_TILE at most
    if has_extras:

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


def _signature(storage: str, kv_storage: str, has_extras: bool) -> types.Type:
    """Return explicit types, so that queries of any stride share one compilation."""
    number, i32, f32, i64 = types.Array, types.int32, types.float32, types.int64
    kind, kv_kind = (numba.from_dtype(np.dtype(name)) for name in (storage, kv_storage))
    tensors = (
        number(kind, 3, "A"),
        number(kv_kind, 5, "C"),
        number(kv_kind, 5, "C"),
        number(kind, 3, "C"),
    )
    layout = (number(i32, 2, "C"), number(i32, 1, "C"), number(i32, 1, "C"), number(i32, 2, "C"))
    extras = (i64, f32, number(f32, 1, "C"), number(f32, 1, "C")) if has_extras else ()
    return types.void(*tensors, *layout, f32, i64, *extras)


def _item_function(block: Block, parts: int, partner: str, extras: str, rows: int) -> Jitable:
    """Make the function for a work item: queries at consecutive positions, for one KV head.

    Queries and weights are held as `partner`, what keys and values are multiplied with. Scores are summed
    in `parts`. `extras` ends the names of parts: "-extras", or nothing for a plain kernel.
    """
    _, head_dim, value_dim, group, _, is_latent = block
    attend_tile = _tile_function(block, rows, parts, rows == group, extras)
    begin_form, window_of = row_functions(group, has_extras=bool(extras))
    begin_rows = begin_function(head_dim, value_dim, group)
    write_rows = end_function(value_dim, group)
    turn_keys = turn_function(block)
    held, most = np.dtype(partner), -(-QUERY_TILE * group // rows) * rows  # of the longest item
    most_lanes, tile = most * LANES, rows * TILE

    @part(variant=f"{block}-{rows}-{parts}-{partner}{extras}")
    def run_item(query, keys, values, out, table, position, head, scale, form):  # type: ignore[no-untyped-def]
        padded = (query.shape[0] * group + rows - 1) // rows * rows
        # too many numbers for a stack, in models with many query heads to a KV head
        q, acc = np.empty(padded * head_dim, held), np.empty(padded * value_dim, np.float32)
        peak, norm = scratch(np.float32, most), scratch(np.float32, most_lanes)
        scores, weights = scratch(np.float32, tile), scratch(held, tile)
        limits = scratch(np.int64, most)
        begin_rows(query, head, position, padded, q, acc, peak, norm, limits)
        seen = begin_form(form, head, limits, padded, peak, norm)
        start = max(position + 1 - window_of(seen, 0), 0) // TILE * TILE
        for first_key in range(start, position + query.shape[0], TILE):
            if is_latent:
                turn_keys(keys, table, first_key, position + query.shape[0], head, values)
            for r in range(0, padded, rows):
                # windows never begin earlier from row to row
                begins = limits[r] - window_of(seen, r)
                if begins < first_key + TILE and limits[r + rows - 1] > first_key:
                    attend_tile(
                        q, r, first_key, limits, seen, keys, values, head, table,
                        scale, acc, peak, norm, scores, weights,
                    )  # fmt: skip
        write_rows(acc, norm, out, head)

    return run_item


def _tile_function(block: Block, rows: int, parts: int, is_decode: bool, extras: str) -> Jitable:
    """Make the function for `rows` rows from row r against the TILE positions from `first_key`.

    A decode step reads each block once, from memory, and prefetches the next tile's: the CPU cannot guess.
    """
    value_rows = next(n for n in (4, 3, 2, 1) if rows % n == 0)
    block_size, head_dim, value_dim, *_ = block
    k_block, v_block = block.of_keys, block.of_values
    is_latent, reads_ahead = block.is_latent, is_decode and not block.is_latent

    @part(variant=f"{block}-{rows}-{parts}-{is_decode}{extras}")
    def attend_tile(  # type: ignore[no-untyped-def]
        q, r, first_key, limits, form, keys, values, head, table, scale, acc, peak, norm, s, p
    ):  # fmt: skip
        kv_heads = keys.shape[1]
        seen = min(limits[r + rows - 1] - first_key, TILE)  # limits never fall from row to row
        first, last = first_key // block_size, (limits[r + rows - 1] - 1) // block_size
        for b in range((seen + block_size - 1) // block_size):
            at = (np.int64(table[first + b]) * kv_heads + head) * k_block
            if is_decode:
                ahead = min(first + b + TILE // block_size, last)
                vec.prefetch(keys, (np.int64(table[ahead]) * kv_heads + head) * k_block, k_block)
            scores.score_block(
                q, r * head_dim, keys, at, scale, s, b * block_size,
                rows, head_dim, block_size, parts,
            )  # fmt: skip
        softmax.softmax_rows(s, limits, r, first_key, form, p, acc, peak, norm, rows, value_dim)
        for b in range((seen + block_size - 1) // block_size):
            at = (b if is_latent else np.int64(table[first + b]) * kv_heads + head) * v_block
            if reads_ahead:
                ahead = min(first + b + TILE // block_size, last)
                vec.prefetch(values, (np.int64(table[ahead]) * kv_heads + head) * v_block, v_block)
            count = min(seen - b * block_size, block_size)
            for i in range(0, rows, value_rows):
                vec.accumulate_block(
                    p, i * TILE + b * block_size, values, at, count,
                    acc, (r + i) * value_dim, value_rows, value_dim,
                )  # fmt: skip

    return attend_tile
