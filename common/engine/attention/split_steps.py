"""Decode steps whose attention is better split: when, and the memory that the kernel needs for it.

The kernel for all steps gives each thread whole KV heads of sequences. Where they are few, or one context is
much longer than the others, threads wait for the one with most positions (cpu/split_attention.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.engine.attention.step_arrays import MOST_DECODED, dealt
from common.engine.cpu.attention_tiles import SEGMENT, Shape
from common.engine.cpu.emit import LANES
from common.engine.cpu.softmax import TILE

_MOST_SHARE = 1.2  # of an equal share of the positions, which one thread may have
_PAIRS_A_THREAD = 4  # of sequences and KV heads; more of them are shares alike enough

Floats = NDArray[np.float32]


class SplitSteps:
    """Choice of the steps to split, and memory for what segments give: sums, maxima, weights' lanes."""

    def __init__(
        self, shapes: Sequence[Shape], num_heads: int, max_positions: int, num_threads: int
    ) -> None:
        self._num_threads, self._max_positions = num_threads, max_positions
        self._kv_heads = min(num_heads // shape.block.group for shape in shapes)
        self._most = min(_PAIRS_A_THREAD * num_threads // self._kv_heads, MOST_DECODED)
        segments = -(-max_positions // SEGMENT)
        # pages that no step has touched take no memory
        rows = self._most * num_heads * segments
        channels = max(shape.block.value_dim for shape in shapes)
        self.memory: tuple[Floats, Floats, Floats] = (
            np.empty(rows * channels, np.float32),
            np.empty(rows, np.float32),
            np.empty(rows * LANES, np.float32),
        )

    def pays(self, contexts: NDArray[np.int32]) -> bool:
        """Return True for a step of so many positions where one thread would have far more than its share."""
        longest = contexts.max()
        if not SEGMENT < longest <= self._max_positions or len(contexts) > self._most:
            return False
        tiles = -(-contexts[dealt(contexts, self._num_threads)] // TILE)
        pairs = tiles.repeat(self._kv_heads)
        num_runs = min(len(pairs), self._num_threads)
        short, longer = divmod(len(pairs), num_runs)
        begins = [run * short + min(run, longer) for run in range(num_runs)]
        most = np.add.reduceat(pairs, begins).max()
        return bool(most * self._num_threads > _MOST_SHARE * pairs.sum())
