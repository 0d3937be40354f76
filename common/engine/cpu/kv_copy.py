"""Copies between the wire layout and packed blocks, in words of 4 bytes.

Layers that are alike are copied at once, from or to [layers, 2, tokens, kv_heads, dim]; others one by one.

A word is one float32 or a pair of two-byte numbers, as `pack` says; PackedStorage describes the blocks. The
words of a key keep their pairs and are only transposed. Values are paired over two positions, so a token's
are picked out of a row of them. KVStore writes them.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.cpu.arrays import as_words
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.kv_store import KVStore, Slots, call_now
from common.engine.cpu.parallel import in_parallel

_LOW = np.uint32(0xFFFF)
_HALF = np.uint32(16)


class PackedBlocks:
    """Blocks of a PackedStorage whose packed numbers fill words of 4 bytes, seen as words."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take `keys` and `values` as PackedStorage describes them, contiguous."""
        layers, blocks, heads = keys.shape[:3]
        self._store = KVStore(keys, values)
        self._pack = keys.shape[-1]
        self._words = keys.shape[3]  # of one token's key and head
        self._block_size = keys.shape[4]
        self._keys, self._values = (
            as_words(x).reshape(layers, blocks, heads, -1) for x in (keys, values)
        )

    def write(self, wire: torch.Tensor, slots: NDArray[np.int64]) -> None:
        """Copy `wire` [layers, 2, tokens, kv_heads, head_dim] to the slots (block * size + offset)."""
        self._store.store_layers(wire, slots)

    def read(self, wire: torch.Tensor, slots: NDArray[np.int64]) -> None:
        """Fill `wire` [layers, 2, tokens, kv_heads, head_dim] from the slots."""
        words = as_words(wire).reshape(*wire.shape[:4], self._words)
        read_blocks(words, self._keys, self._values, slots, self._pack)

    def write_layers(
        self, pieces: Iterable[tuple[torch.Tensor, torch.Tensor]], slots: NDArray[np.int64]
    ) -> None:
        """Copy keys and values [tokens, kv_heads, dim] of each layer, contiguous, to the slots."""
        places = Slots.of(slots, self._block_size)
        for layer, (keys, values) in enumerate(pieces):
            self._store.put(call_now, layer, keys, values, places)

    def read_layer(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: NDArray[np.int64]
    ) -> None:
        """Fill contiguous `keys` and `values` [tokens, kv_heads, dim] of one layer from the slots."""
        to_keys, to_values = (as_words(x).reshape(*x.shape[:2], -1) for x in (keys, values))
        own = self._keys[layer], self._values[layer]
        read_layer_blocks(to_keys, to_values, *own, slots, self._pack)


@kernel()
def read_blocks(wire, keys, values, slots, pack):  # type: ignore[no-untyped-def]
    """Fill `wire` words [layers, 2, T, heads, words] from the `slots` [T] of flat blocks `keys`, `values`.

    Both are words [layers, blocks, heads, words * block_size]; `slots` is block * block_size + offset.
    """
    in_parallel(wire.shape[0] * wire.shape[3], _read_heads, (wire, keys, values, slots, pack))


@part()
def _read_heads(first_work, end_work, wire, keys, values, slots, pack):  # type: ignore[no-untyped-def]
    heads, words = wire.shape[3], wire.shape[4]
    size = keys.shape[3] // words
    for work in range(first_work, end_work):
        layer, h = work // heads, work % heads
        for t in range(slots.shape[0]):
            block, offset = slots[t] // size, slots[t] % size
            from_k, k = keys[layer, block, h], wire[layer, 0, t, h]
            for w in range(words):
                k[w] = from_k[w * size + offset]
            from_v, v = values[layer, block, h], wire[layer, 1, t, h]
            if pack == 1:
                for w in range(words):
                    v[w] = from_v[offset * words + w]
            else:
                _unweave(v, from_v, offset, words)


@kernel()
def read_layer_blocks(to_keys, to_values, keys, values, slots, pack):  # type: ignore[no-untyped-def]
    """Fill `to_keys` and `to_values`, words [T, heads, words], from one layer's blocks of words.

    `keys` and `values` are [blocks, heads, words * block_size], of words as many as their own.
    """
    given = to_keys, to_values, keys, values, slots, pack
    in_parallel(to_keys.shape[1], _read_layer_heads, given)


@part()
def _read_layer_heads(first_head, end_head, to_keys, to_values, keys, values, slots, pack):  # type: ignore[no-untyped-def]
    key_words, value_words = to_keys.shape[2], to_values.shape[2]
    size = keys.shape[2] // key_words
    for h in range(first_head, end_head):
        for t in range(slots.shape[0]):
            block, offset = slots[t] // size, slots[t] % size
            from_k, k = keys[block, h], to_keys[t, h]
            for w in range(key_words):
                k[w] = from_k[w * size + offset]
            from_v, v = values[block, h], to_values[t, h]
            if pack == 1:
                for w in range(value_words):
                    v[w] = from_v[offset * value_words + w]
            else:
                _unweave(v, from_v, offset, value_words)


@part()
def _unweave(token, rows, offset, words):  # type: ignore[no-untyped-def]
    at, shift = (offset // 2) * 2 * words, np.uint32(16 * (offset % 2))
    for w in range(words):
        low = (rows[at + 2 * w] >> shift) & _LOW
        high = (rows[at + 2 * w + 1] >> shift) & _LOW
        token[w] = low | (high << _HALF)
