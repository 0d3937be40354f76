"""Decode steps whose attention is better split: when, and the memory that the kernel needs for it.

The kernel for all steps gives each thread whole KV heads of sequences. Where they are few, or one context is
much longer than the others, threads wait for the one with most positions (cpu/split_attention.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.engine.attention.step_arrays import MOST_DECODED
from common.engine.cpu.attention_tiles import SEGMENT, Shape
from common.engine.cpu.emit import LANES
from common.engine.cpu.softmax import TILE

_MOST_SHARE = 1.2  # of an equal share of the positions, which one thread may have
_MOST_BYTES = 32 << 20  # of sums; longer contexts of as many sequences are not split


class SplitSteps:
    """Choice of the steps to split, and memory for what segments give: sums, maxima, weights' lanes."""

    def __init__(
        self, shapes: Sequence[Shape], num_heads: int, max_positions: int, num_threads: int
    ) -> None:
        self._num_threads, self._num_heads = num_threads, num_heads
        self._kv_heads = min(num_heads // shape.block.group for shape in shapes)
        numbers = max(shape.block.value_dim for shape in shapes), 1, LANES
        most = MOST_DECODED * num_heads * _segments(max_positions)
        self._rows = min(most, _MOST_BYTES // (4 * sum(numbers)))
        # pages that no step has touched take no memory
        self.memory = tuple(np.empty(self._rows * count, np.float32) for count in numbers)

    def pays(self, contexts: NDArray[np.int32]) -> bool:
        """Return True where one thread would have far more positions than its share.

        `contexts` are positions of sequences in the order of their work items, of which threads take runs.
        """
        segments = _segments(int(contexts.max()))
        if segments == 1 or len(contexts) * self._num_heads * segments > self._rows:
            return False
        pairs = (-(-contexts // TILE)).repeat(self._kv_heads)
        num_runs = min(len(pairs), self._num_threads)
        short, longer = divmod(len(pairs), num_runs)
        begins = [run * short + min(run, longer) for run in range(num_runs)]
        most = np.add.reduceat(pairs, begins).max()
        return bool(most * self._num_threads > _MOST_SHARE * pairs.sum())


def _segments(positions: int) -> int:
    return -(-positions // SEGMENT)
