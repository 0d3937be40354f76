"""Paged attention for the CPU: decode tokens and prefill chunks in one ragged call.

One work item is a tile of queries of one sequence and one KV head. It walks the sequence's blocks once,
TILE positions at a time, with the running maximum and sum of FlashAttention's online softmax (Dao et al.
2022), so memory is bounded by the tile, not by the context. Query heads that share a KV head (GQA) are
rows of one tile and share its loads. Products run in vector.py's register tiles.
Only positions that the sequence has written are read from `values`: what a freed block still holds, even
NaN, cannot reach another sequence.
"""

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from common.engine.cpu import vector as vec
from common.engine.cpu.emit import LANES

QUERY_TILE = 16
_MAX_ROWS = 12  # rows whose scores stay in registers
_NEG = np.float32(-1e30)  # a masked score
_LOW = np.float32(-1e29)  # a row's maximum before it saw a key: above any masked score
_TILE = vec.TILE

Kernel = Callable[..., None]
Jitable = Callable[..., None]


def kernel_fits(block_size: int, head_dim: int) -> bool:
    """`block_size` must divide TILE; it and `head_dim` must be multiples of LANES."""
    return not (block_size % LANES or head_dim % LANES or _TILE % block_size)


@lru_cache(maxsize=8)
def attention_kernel(block_size: int, head_dim: int, group: int, storage: str) -> Kernel:
    """Compile (once per machine, on disk) the kernel for one block shape that `kernel_fits`.

    `storage` is the numpy name of the blocks' dtype. The signature is explicit, so that queries of any
    stride share one compilation. Closures hold numbers and plain functions only: numba's disk cache would
    miss on anything else.
    """
    decode_rows = next(n for n in range(min(group, _MAX_ROWS), 0, -1) if group % n == 0)
    chunk_rows = decode_rows * (_MAX_ROWS // decode_rows)
    decode_one = _item_function(block_size, head_dim, group, decode_rows)
    run_chunk = _item_function(block_size, head_dim, group, chunk_rows)

    @numba.njit(_signature(storage), cache=True, nogil=True, parallel=True, error_model="numpy")
    def attend(query, keys, values, out, tables, starts, contexts, items, scale, window):  # type: ignore[no-untyped-def]
        # query, out [T, heads, dim]; keys [blocks, kv_heads, dim, size];
        # values [blocks, kv_heads, size, dim];
        # items [n, 3]: sequence, first query, end query (within the sequence)
        kv_heads = keys.shape[1]
        for work in numba.prange(items.shape[0] * kv_heads):
            item, head = work // kv_heads, work % kv_heads
            seq, first, end = items[item, 0], items[item, 1], items[item, 2]
            begin, context = starts[seq] + first, contexts[seq] - (starts[seq + 1] - starts[seq])
            q, o = query[begin : begin + end - first], out[begin : begin + end - first]
            if end - first == 1:
                decode_one(q, keys, values, o, tables[seq], context + first, head, scale, window)
            else:
                run_chunk(q, keys, values, o, tables[seq], context + first, head, scale, window)

    return attend  # type: ignore[no-any-return]


def _signature(storage: str) -> types.Type:
    number, i32 = types.Array, types.int32
    kind = numba.from_dtype(np.dtype(storage))
    tensors = (
        number(kind, 3, "A"),
        number(kind, 4, "C"),
        number(kind, 4, "C"),
        number(kind, 3, "C"),
    )
    layout = (number(i32, 2, "C"), number(i32, 1, "C"), number(i32, 1, "C"), number(i32, 2, "C"))
    return types.void(*tensors, *layout, types.float32, types.int64)


def _item_function(block_size: int, head_dim: int, group: int, rows: int) -> Jitable:
    """One work item: queries at consecutive positions from `position`, for one KV head."""
    attend_tile = _tile_function(block_size, head_dim, rows)

    @register_jitable
    def run_item(query, keys, values, out, table, position, head, scale, window):  # type: ignore[no-untyped-def]
        n = query.shape[0] * group
        padded = (n + rows - 1) // rows * rows
        q, acc = np.zeros(padded * head_dim, np.float32), np.zeros(padded * head_dim, np.float32)
        peak, norm = np.full(padded, _LOW, np.float32), np.zeros(padded, np.float32)
        scores, limits = np.empty(rows * _TILE, np.float32), np.empty(padded, np.int64)
        for r in range(padded):
            limits[r] = position + min(r, n - 1) // group + 1
        start = max(position + 1 - window, 0) // _TILE * _TILE
        for r in range(n):
            for d in range(head_dim):
                q[r * head_dim + d] = (
                    vec.widen(query[r // group, head * group + r % group, d]) * scale
                )
        flat_k, flat_v = keys.reshape(-1), values.reshape(-1)
        for first_key in range(start, position + query.shape[0], _TILE):
            for r in range(0, padded, rows):
                if limits[r] - window < first_key + _TILE and limits[r + rows - 1] > first_key:
                    attend_tile(
                        q, r, first_key, limits, window, flat_k, flat_v, keys.shape[1], head, table,
                        acc, peak, norm, scores,
                    )  # fmt: skip
        for r in range(n):
            row = out[r // group, head * group + r % group]
            for d in range(head_dim):
                row[d] = vec.narrow(row[d], acc[r * head_dim + d] / norm[r])

    return run_item  # type: ignore[no-any-return]


def _tile_function(block_size: int, head_dim: int, rows: int) -> Jitable:
    """`rows` rows from row r against the TILE positions from `first_key`."""
    value_rows = next(n for n in (4, 3, 2, 1) if rows % n == 0)
    weigh = _weigh_function(head_dim)
    block = block_size * head_dim

    @register_jitable
    def attend_tile(  # type: ignore[no-untyped-def]
        q, r, first_key, limits, window, keys, values, kv_heads, head, table, acc, peak, norm, s
    ):
        seen = min(limits[r + rows - 1] - first_key, _TILE)  # limits never fall from row to row
        first = first_key // block_size
        for b in range((seen + block_size - 1) // block_size):
            at = (np.int64(table[first + b]) * kv_heads + head) * block
            vec.score_block(
                q, r * head_dim, keys, at, s, b * block_size, rows, head_dim, block_size
            )
        for i in range(rows):
            end = limits[r + i] - first_key
            weigh(s, i * _TILE, end - window, end, acc, (r + i) * head_dim, peak, norm, r + i)
        for b in range((seen + block_size - 1) // block_size):
            at = (np.int64(table[first + b]) * kv_heads + head) * block
            count = min(seen - b * block_size, block_size)
            for i in range(0, rows, value_rows):
                vec.accumulate_block(
                    s, i * _TILE + b * block_size, values, at, count,
                    acc, (r + i) * head_dim, value_rows, head_dim,
                )  # fmt: skip

    return attend_tile  # type: ignore[no-any-return]


def _weigh_function(head_dim: int) -> Jitable:
    """Scores of one row to weights, to zero outside [start, end) of the tile.

    What the row has gathered is rescaled when its maximum rises.
    """

    @register_jitable
    def weigh(s, at, start, end, acc, acc_at, peak, norm, r):  # type: ignore[no-untyped-def]
        for j in range(min(start, _TILE)):
            s[at + j] = _NEG
        for j in range(max(end, 0), _TILE):
            s[at + j] = _NEG
        tile_peak = vec.row_max(s, at)
        if tile_peak > peak[r]:
            correction = np.exp(peak[r] - tile_peak)
            norm[r] *= correction
            for d in range(head_dim):
                acc[acc_at + d] *= correction
            peak[r] = tile_peak
        norm[r] += vec.row_exp(s, at, peak[r])

    return weigh  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)
def store(key, value, keys, values, slots):  # type: ignore[no-untyped-def]
    """Scatter `key` and `value` [T, kv_heads, dim] to their slots in one layer's blocks."""
    block_size = keys.shape[3]
    for t in range(key.shape[0]):
        block, offset = slots[t] // block_size, slots[t] % block_size
        for h in range(key.shape[1]):
            for d in range(key.shape[2]):
                keys[block, h, d, offset] = key[t, h, d]
                values[block, h, offset, d] = value[t, h, d]
