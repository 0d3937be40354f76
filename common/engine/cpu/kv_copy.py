"""Copies between the wire layout [layers, 2, tokens, kv_heads, dim] and packed blocks, in words of 4 bytes.

A word is one float32 or a pair of two-byte numbers, as `pack` says; PackedStorage describes the blocks. The
words of a key keep their pairs and are only transposed. Values are paired over two positions, so a row of
them is woven from two tokens. The odd token at a ragged edge goes in alone.
"""

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.cpu.arrays import Words, as_words
from common.engine.cpu.jit import kernel

_LOW = np.uint32(0xFFFF)
_HIGH = np.uint32(0xFFFF0000)
_HALF = np.uint32(16)


class PackedBlocks:
    """Blocks of a PackedStorage whose packed numbers fill words of 4 bytes, seen as words."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take `keys` and `values` as PackedStorage describes them, contiguous."""
        layers, blocks, heads = keys.shape[:3]
        self._pack = keys.shape[-1]
        self._words = keys.shape[3]  # of one token and head
        self._keys, self._values = (
            as_words(x).reshape(layers, blocks, heads, -1) for x in (keys, values)
        )

    def write(self, wire: torch.Tensor, slots: NDArray[np.int64]) -> None:
        """Copy `wire` [layers, 2, tokens, kv_heads, head_dim] to the slots (block * size + offset)."""
        write_blocks(self._wire_words(wire), self._keys, self._values, slots, self._pack)

    def read(self, wire: torch.Tensor, slots: NDArray[np.int64]) -> None:
        """Fill `wire` [layers, 2, tokens, kv_heads, head_dim] from the slots."""
        read_blocks(self._wire_words(wire), self._keys, self._values, slots, self._pack)

    def _wire_words(self, wire: torch.Tensor) -> Words:
        return as_words(wire).reshape(*wire.shape[:4], self._words)


@kernel()
def write_blocks(wire, keys, values, slots, pack):  # type: ignore[no-untyped-def]
    """Copy `wire` words [layers, 2, T, heads, words] to the `slots` [T] of flat blocks `keys`, `values`.

    Both are words [layers, blocks, heads, words * block_size]; `slots` is block * block_size + offset.
    """
    layers, heads, words = wire.shape[0], wire.shape[3], wire.shape[4]
    size = keys.shape[3] // words
    for work in numba.prange(layers * heads):
        layer, h = work // heads, work % heads
        for t in range(slots.shape[0]):
            block, offset = slots[t] // size, slots[t] % size
            to_k, k = keys[layer, block, h], wire[layer, 0, t, h]
            for w in range(words):
                to_k[w * size + offset] = k[w]
            to_v, v = values[layer, block, h], wire[layer, 1, t, h]
            if pack == 1:
                to_v[offset * words : (offset + 1) * words] = v
            elif offset % 2 == 1:
                if t == 0:
                    _weave_second(to_v, v, offset // 2, words)
            elif t + 1 < slots.shape[0]:
                _weave(to_v, v, wire[layer, 1, t + 1, h], offset // 2, words)
            else:
                _weave_first(to_v, v, offset // 2, words)


@kernel()
def read_blocks(wire, keys, values, slots, pack):  # type: ignore[no-untyped-def]
    """Copy the other way, as write_blocks describes it."""
    layers, heads, words = wire.shape[0], wire.shape[3], wire.shape[4]
    size = keys.shape[3] // words
    for work in numba.prange(layers * heads):
        layer, h = work // heads, work % heads
        for t in range(slots.shape[0]):
            block, offset = slots[t] // size, slots[t] % size
            from_k, k = keys[layer, block, h], wire[layer, 0, t, h]
            for w in range(words):
                k[w] = from_k[w * size + offset]
            from_v, v = values[layer, block, h], wire[layer, 1, t, h]
            if pack == 1:
                v[:] = from_v[offset * words : (offset + 1) * words]
            else:
                _unweave(v, from_v, offset, words)


@kernel(parallel=False)
def _weave(to, first, second, row, words):  # type: ignore[no-untyped-def]
    # channel d of both tokens becomes one word
    at = row * 2 * words
    for w in range(words):
        to[at + 2 * w] = (first[w] & _LOW) | (second[w] << _HALF)
        to[at + 2 * w + 1] = (first[w] >> _HALF) | (second[w] & _HIGH)


@kernel(parallel=False)
def _weave_first(to, first, row, words):  # type: ignore[no-untyped-def]
    at = row * 2 * words
    for w in range(words):
        to[at + 2 * w] = (first[w] & _LOW) | (to[at + 2 * w] & _HIGH)
        to[at + 2 * w + 1] = (first[w] >> _HALF) | (to[at + 2 * w + 1] & _HIGH)


@kernel(parallel=False)
def _weave_second(to, second, row, words):  # type: ignore[no-untyped-def]
    at = row * 2 * words
    for w in range(words):
        to[at + 2 * w] = (to[at + 2 * w] & _LOW) | (second[w] << _HALF)
        to[at + 2 * w + 1] = (to[at + 2 * w + 1] & _LOW) | (second[w] & _HIGH)


@kernel(parallel=False)
def _unweave(token, rows, offset, words):  # type: ignore[no-untyped-def]
    at, shift = (offset // 2) * 2 * words, np.uint32(16 * (offset % 2))
    for w in range(words):
        low = (rows[at + 2 * w] >> shift) & _LOW
        high = (rows[at + 2 * w + 1] >> shift) & _LOW
        token[w] = low | (high << _HALF)
