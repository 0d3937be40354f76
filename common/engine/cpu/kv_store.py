"""Kernel that stores keys and values in their blocks, run by run: of a step's layer, or KV that arrived.

A run is consecutive positions within LANES of one block.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray

from common.engine.cpu.arrays import as_array, as_words
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.memory import flat
from common.engine.cpu.panel import lay_out
from common.engine.cpu.parallel import in_parallel

Numbers = NDArray[np.int64]
MakeCall = Callable[..., None]  # of a function with its arguments, now or later


class Slots(NamedTuple):
    """Slots of a step's tokens (block * block_size + offset), and the first and end row of each run."""

    slots: Numbers  # [T]
    begins: Numbers  # [runs]
    ends: Numbers

    @staticmethod
    def of(slots: Numbers, block_size: int) -> "Slots":
        """Find the runs among slots."""
        runs = find_runs(slots, block_size)
        return Slots(slots, runs[:-1], runs[1:])


def call_now(function: Callable[..., None], *args: object) -> None:
    """Call a function at once: a MakeCall."""
    function(*args)


class KVStore:
    """Writer to the blocks of a PackedStorage in host memory; it copies numbers as words of 32 bits."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take `keys` and `values` as PackedStorage describes them, contiguous."""
        self._number = np.dtype(np.uint32 if keys.shape[-1] == 1 else np.uint16)
        words = [as_words(x).reshape(x.shape[:-1]) for x in (keys, values)]
        self._blocks = *words, as_array(values).view(self._number)
        self._store = _store_kernel(keys.shape[-1] == 2)

    def put(
        self, call: MakeCall, layer: int, key: torch.Tensor, value: torch.Tensor, slots: Slots
    ) -> None:
        """Store `key` and `value` [T, kv_heads, dim], a head's numbers side by side, by calls of `call`."""
        words = as_array(key).view(np.uint32)
        held = self._blocks[1].shape[-1]  # channels; none of latents, whose values lie in keys
        numbers = as_array(value[..., :held]).view(self._number)
        call(self._store, words, numbers, *(x[layer] for x in self._blocks), *slots)

    def store_layers(self, wire: torch.Tensor, slots: Numbers) -> None:
        """Store `wire` [layers, 2, T, kv_heads, dim], contiguous: every layer's keys and values at once."""
        layers, _, num_tokens, heads, dim = wire.shape
        size, num_blocks = self._blocks[0].shape[4], self._blocks[0].shape[1]
        runs = Slots.of(slots, size)
        # all layers' blocks are numbered through; row 2 T layer + t is a key, and T rows behind its value
        layer = np.arange(layers)[:, None]
        rows = as_array(wire).reshape(-1, heads, dim)
        words, numbers = rows.view(np.uint32)[:-num_tokens], rows.view(self._number)[num_tokens:]
        keys, values, halves = (x.reshape(-1, *x.shape[2:]) for x in self._blocks)
        all_slots = np.zeros((layers, 2, num_tokens), np.int64)
        all_slots[:, 0] = slots + layer * num_blocks * size
        first, end = ((rows + layer * 2 * num_tokens).ravel() for rows in (runs.begins, runs.ends))
        self._store(words, numbers, keys, values, halves, all_slots.ravel(), first, end)


def find_runs(slots: Numbers, block_size: int) -> Numbers:
    """Return the rows of `slots` [T] (block * block_size + offset) that begin a run, and T: [n + 1]."""
    begins = slots % block_size % LANES == 0
    begins[1:] |= np.diff(slots) != 1
    begins[:1] = True
    return np.append(np.flatnonzero(begins), len(slots))


def _put_pairs(value, first, end, head, block, numbers, offset):  # type: ignore[no-untyped-def]
    """Put two positions into one word, the first in its lower half; one alone as a half, with no read."""
    row = first
    while row < end:
        at = offset + row - first
        if at % 2 == 0 and row + 1 < end:
            words, low, high = block[at // 2], value[row, head], value[row + 1, head]
            for d in range(words.shape[0]):
                words[d] = np.uint32(low[d]) | (np.uint32(high[d]) << np.uint32(16))
            row += 2
        else:
            halves, alone = numbers[at // 2], value[row, head]
            for d in range(halves.shape[0]):
                halves[d, at % 2] = alone[d]
            row += 1


def _put_rows(value, first, end, head, block, numbers, offset):  # type: ignore[no-untyped-def]
    for row in range(first, end):
        for d in range(block.shape[1]):
            block[offset + row - first, d] = value[row, head, d]


@lru_cache(maxsize=2)
def _store_kernel(is_paired: bool) -> Callable[..., None]:
    """Compile (once per machine, on disk) the kernel for paired numbers, or for single ones.

    The signature is explicit: with one row any slice is contiguous, and would be a compilation of its own.
    """
    variant = "paired" if is_paired else "single"
    put_values = part()(_put_pairs if is_paired else _put_rows)

    @part(variant=variant)
    def store_runs(first_work, end_work, key, value, keys, values, numbers, slots, begins, ends):  # type: ignore[no-untyped-def]
        heads, words, size = key.shape[1], key.shape[2], keys.shape[3]
        row_words, head_words = key.strides[0] // 4, key.strides[1] // 4
        flat_keys = flat(keys)
        for work in range(first_work, end_work):
            run, head = work // heads, work % heads
            first, end = begins[run], ends[run]
            block, offset = slots[first] // size, slots[first] % size
            whole = words // LANES * LANES if end - first == LANES else 0
            for word in range(0, whole, LANES):
                source = first * row_words + head * head_words + word
                target = ((block * heads + head) * words + word) * size + offset
                lay_out(key, source, row_words, flat_keys, target, size)
            for row in range(first, end):
                for word in range(whole, words):
                    keys[block, head, word, offset + row - first] = key[row, head, word]
            put_values(value, first, end, head, values[block, head], numbers[block, head], offset)

    @kernel(variant=variant, signature=_signature(types.uint16 if is_paired else types.uint32))
    def store(key, value, keys, values, numbers, slots, begins, ends):  # type: ignore[no-untyped-def]
        # key [T, heads, words], keys [blocks, heads, words, size]; value [T, heads, dim] numbers;
        # values [blocks, heads, size / pack, dim] words, `numbers` the same memory as [..., dim, pack]
        given = key, value, keys, values, numbers, slots, begins, ends
        in_parallel(begins.shape[0] * key.shape[1], store_runs, given)

    return store


def _signature(number: types.Type) -> types.Type:
    array, word = types.Array, types.uint32
    step = array(word, 3, "A"), array(number, 3, "A")
    blocks = array(word, 4, "C"), array(word, 4, "C"), array(number, 5, "C")
    rows = array(types.int64, 1, "C")
    return types.void(*step, *blocks, rows, rows, rows)
