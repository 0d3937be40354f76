"""Paged attention for the CPU as a numba kernel: decode tokens and prefill chunks in one ragged call.

One work item is a tile of queries of one sequence and one KV head. It walks the sequence's blocks once,
with the running maximum and sum of FlashAttention's online softmax (Dao et al. 2022), so memory is
bounded by the tile, not by the context. Query heads that share a KV head share the loads (GQA).
exp is a range-reduced polynomial because LLVM does not vectorise a call to libm.
"""

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
from numba.extending import register_jitable

QUERY_TILE = 16
_UNROLL = 8  # rows of K or V combined for each load and store of the accumulator
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}  # not nnan/ninf: bad logits must stay visible
_LOG2E = np.float32(1.4426950408889634)
_NEG = np.float32(-1e30)
_ZERO = np.float32(0)
_ONE = np.float32(1)
_LOWEST = np.float32(-126)
# 2**f on [0, 1), Taylor in f*ln2; relative error below 2e-7
_C1, _C2, _C3 = np.float32(0.6931472), np.float32(0.24022651), np.float32(0.05550411)
_C4, _C5, _C6 = np.float32(0.009618129), np.float32(0.0013333558), np.float32(0.00015403530)

Kernel = Callable[..., None]


@lru_cache(maxsize=8)
def attention_kernel(block_size: int, head_dim: int) -> Kernel:
    """The compiled kernel for one block shape; both sizes must be multiples of 8.

    They are compile-time constants so that inner loops unroll. Compiled once per machine (on disk).
    """
    if block_size % _UNROLL or head_dim % _UNROLL:
        raise ValueError(f"{block_size=} and {head_dim=} must be multiples of {_UNROLL}")
    # register_jitable leaves plain functions in the closure; dispatchers there would defeat the disk cache
    inline = register_jitable(inline="always")

    @inline
    def scores(q, r, keys, s):  # type: ignore[no-untyped-def]
        for j in range(block_size):
            s[j] = _ZERO
        for d in range(0, head_dim, _UNROLL):
            q0, q1, q2, q3 = q[r, d], q[r, d + 1], q[r, d + 2], q[r, d + 3]
            q4, q5, q6, q7 = q[r, d + 4], q[r, d + 5], q[r, d + 6], q[r, d + 7]
            for j in range(block_size):
                low = (q0 * keys[d, j] + q1 * keys[d + 1, j]) + (
                    q2 * keys[d + 2, j] + q3 * keys[d + 3, j]
                )
                high = (q4 * keys[d + 4, j] + q5 * keys[d + 5, j]) + (
                    q6 * keys[d + 6, j] + q7 * keys[d + 7, j]
                )
                s[j] += low + high

    @inline
    def exponentiate(s, maximum, p, bits, powers):  # type: ignore[no-untyped-def]
        # p[j] <- exp(s[j] - maximum); `powers` is `bits` seen as float32
        for j in range(block_size):
            x = max((s[j] - maximum) * _LOG2E, _LOWEST)
            whole = np.floor(x)
            f = x - whole
            p[j] = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
            bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        total = _ZERO
        for j in range(block_size):
            p[j] *= powers[j]
            total += p[j]
        return total

    @inline
    def accumulate(acc, r, p, values):  # type: ignore[no-untyped-def]
        for j in range(0, block_size, _UNROLL):
            p0, p1, p2, p3 = p[j], p[j + 1], p[j + 2], p[j + 3]
            p4, p5, p6, p7 = p[j + 4], p[j + 5], p[j + 6], p[j + 7]
            for d in range(head_dim):
                low = (p0 * values[j, d] + p1 * values[j + 1, d]) + (
                    p2 * values[j + 2, d] + p3 * values[j + 3, d]
                )
                high = (p4 * values[j + 4, d] + p5 * values[j + 5, d]) + (
                    p6 * values[j + 6, d] + p7 * values[j + 7, d]
                )
                acc[r, d] += low + high

    @inline
    def attend_block(q, r, num_keys, keys, values, acc, peak, norm, s, p, bits, powers):  # type: ignore[no-untyped-def]
        # One row against the first `num_keys` positions of one block.
        scores(q, r, keys, s)
        for j in range(num_keys, block_size):
            s[j] = _NEG
        block_peak = s[0]
        for j in range(1, block_size):
            block_peak = max(block_peak, s[j])
        if not block_peak <= peak[r]:  # also true for NaN, so that it spreads
            correction = np.exp(peak[r] - block_peak)
            norm[r] *= correction
            for d in range(head_dim):
                acc[r, d] *= correction
            peak[r] = block_peak
        norm[r] += exponentiate(s, peak[r], p, bits, powers)
        accumulate(acc, r, p, values)

    @numba.njit(fastmath=_FASTMATH, cache=True, nogil=True, parallel=True, error_model="numpy")
    def attend(query, keys, values, out, tables, starts, contexts, items, scale):  # type: ignore[no-untyped-def]
        # query, out [T, heads, dim]; keys [blocks, kv_heads, dim, size];
        # values [blocks, kv_heads, size, dim];
        # items [n, 3]: sequence, first query, end query (within the sequence)
        kv_heads = keys.shape[1]
        group = query.shape[1] // kv_heads
        for work in numba.prange(items.shape[0] * kv_heads):
            item, head = work // kv_heads, work % kv_heads
            seq, first, end = items[item, 0], items[item, 1], items[item, 2]
            base = starts[seq]
            offset = contexts[seq] - (starts[seq + 1] - base)
            rows = (end - first) * group
            q = np.empty((rows, head_dim), np.float32)
            acc = np.zeros((rows, head_dim), np.float32)
            peak, norm = np.full(rows, _NEG, np.float32), np.zeros(rows, np.float32)
            s, p = np.empty(block_size, np.float32), np.empty(block_size, np.float32)
            bits = np.empty(block_size, np.int32)
            powers = bits.view(np.float32)
            for r in range(rows):
                for d in range(head_dim):
                    q[r, d] = query[base + first + r // group, head * group + r % group, d] * scale
            for b in range((offset + end + block_size - 1) // block_size):
                block = tables[seq, b]
                k, v = keys[block, head], values[block, head]
                for r in range(rows):
                    num_keys = min(offset + first + r // group + 1 - b * block_size, block_size)
                    if num_keys > 0:
                        attend_block(q, r, num_keys, k, v, acc, peak, norm, s, p, bits, powers)
            for r in range(rows):
                for d in range(head_dim):
                    out[base + first + r // group, head * group + r % group, d] = (
                        acc[r, d] / norm[r]
                    )

    return attend  # type: ignore[no-any-return]


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
