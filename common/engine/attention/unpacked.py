"""Numbers of quantized pages for a kernel that reads no others: unpacked into scratch memory, layer by layer.

The scratch memory is taken once. A step's sequences go in groups whose pages fit there. The host knows these
pages, so nothing waits for the device. A captured step knows none and unpacks whole block tables: its shapes
then depend on the batch size alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.device_copy import to_device
from common.engine.device_inputs import StepTensors
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.quantized_kv import Levels

MOST_CAPTURED: Final = 64  # pages; a captured step unpacks all of its tables, used or not
LEAST_PAGES: Final = 256  # of scratch memory: most batches are one group
_AT_ONCE = 64  # pages, whose levels are held beside their words and numbers


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that attend in one call, and the pages that they see; tables count in these."""

    rows: slice  # of the step's queries
    query_start: torch.Tensor  # from 0
    context_len: torch.Tensor
    block_tables: torch.Tensor
    blocks: torch.Tensor  # int32, in the cache


class UnpackedPages:
    """Scratch memory for the pages of `num_pages` blocks, or of the longest context, if that is more."""

    def __init__(self, cache: KVCache, levels: Levels, num_pages: int) -> None:
        self._cache, self._levels = cache, levels
        self._block_size = cache.block_size
        self._num_pages = max(num_pages, -(-cache.max_context_tokens // cache.block_size))
        most = max(shape.num_kv_heads * shape.key_dim for shape in cache.shapes)
        self._device = cache.keys.device
        numbers = 2, self._num_pages * cache.block_size * most
        self._memory = torch.empty(numbers, dtype=cache.dtype, device=self._device)

    def groups(self, step: StepTensors) -> list[Group]:
        """Return the groups of a step, in the order of its sequences."""
        if step.max_context is not None:
            return [_whole_tables(step)]
        counts = -(-step.host.context_len // self._block_size)
        return [self._group(step, counts, part) for part in _cut(counts, self._num_pages)]

    def unpack(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [blocks, block_size, kv_heads, channels]; the next call overwrites them."""
        storage, place = self._cache.place_of(layer)
        heads, *dims = self._cache.shapes[layer]
        sizes = ((len(blocks), self._block_size, heads, dim) for dim in dims)
        keys, values = (
            memory[: math.prod(size)].view(size)
            for memory, size in zip(self._memory, sizes, strict=True)
        )
        for numbers, words in zip((keys, values), storage.pages(place), strict=True):
            for part, found in zip(numbers.split(_AT_ONCE), blocks.split(_AT_ONCE), strict=True):
                self._levels.dequantize_into(part, words.index_select(0, found))
        return keys, values

    def _group(self, step: StepTensors, counts: NDArray[np.int32], part: slice) -> Group:
        starts = step.host.query_start
        first, end = part.start, part.stop
        blocks, tables = _numbered(step.host.block_tables[part], counts[part])
        both = to_device(np.concatenate((blocks, tables.ravel())), self._device)
        return Group(
            rows=slice(int(starts[first]), int(starts[end])),
            query_start=step.query_start[first : end + 1] - step.query_start[first],
            context_len=step.context_len[part],
            block_tables=both[len(blocks) :].view(tables.shape),
            blocks=both[: len(blocks)],
        )


def _whole_tables(step: StepTensors) -> Group:
    """Return the one group of a captured step, whose tables are unpacked as they are."""
    tables = step.block_tables
    numbers = torch.arange(tables.numel(), dtype=torch.int32, device=tables.device)
    each = step.query_start, step.context_len, numbers.view(tables.shape), tables.flatten()
    return Group(slice(None), *each)


def _cut(counts: NDArray[np.int32], most: int) -> Iterator[slice]:
    """Cut sequences of so many pages into runs of at most `most` pages, or of one sequence."""
    first = total = 0
    for index, count in enumerate(counts.tolist()):
        if total + count > most and index > first:
            yield slice(first, index)
            first, total = index, 0
        total += count
    yield slice(first, len(counts))


def _numbered(
    tables: NDArray[np.int32], counts: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the blocks that are used, each once, and tables of their places among them.

    What lies behind a context is place 0, which exists: a kernel may fetch ahead.
    """
    width = int(counts.max())
    is_used = np.arange(width) < counts[:, None]
    blocks, places = np.unique(tables[:, :width][is_used], return_inverse=True)
    numbered = np.zeros(is_used.shape, dtype=np.int32)
    numbered[is_used] = places
    return blocks.astype(np.int32), numbered
