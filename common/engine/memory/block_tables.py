"""Block tables as the matrix that kernels read, kept from step to step."""

from collections.abc import Sequence as SequenceOf
from operator import is_

import numpy as np
from numpy.typing import NDArray


class BlockTables:
    """Rows of the last step, so that a step converts only the blocks that were added since.

    Invariant of `Sequence.block_table`: a list only ever grows, and a sequence that loses its blocks gets
    another list. So the blocks read from a list stay its head, and rows given to a step change only behind
    the part that it reads.
    """

    def __init__(self) -> None:
        self._lists: list[list[int]] = []
        self._num_read: list[int] = []  # of each list, into its row
        self._rows = np.zeros((0, 0), np.int32)

    def rows(self, tables: SequenceOf[list[int]], num_blocks: SequenceOf[int]) -> NDArray[np.int32]:
        """Return a C-contiguous row for each table, which begins with its first `num_blocks[i]` blocks.

        Entries behind them, zeros or more of the table, mean nothing.
        """
        width = max(num_blocks)
        is_same = len(tables) == len(self._lists) and all(map(is_, tables, self._lists))
        if not is_same or width > self._rows.shape[1]:
            self._arrange(tables, width)
        for row, (start, end) in enumerate(zip(self._num_read, num_blocks, strict=True)):
            if start < end:
                self._rows[row, start:end] = tables[row][start:end]
                self._num_read[row] = end
        return self._rows

    def _arrange(self, tables: SequenceOf[list[int]], width: int) -> None:
        """Give row i to `tables[i]`, with the blocks already read of it."""
        # no other list can have the id of one that is held here
        row_of = {id(table): row for row, table in enumerate(self._lists)}
        origins = [row_of.get(id(table)) for table in tables]
        rows = np.zeros((len(tables), width), np.int32)
        shared = min(width, self._rows.shape[1])
        kept = [(row, origin) for row, origin in enumerate(origins) if origin is not None]
        rows[[row for row, _ in kept], :shared] = self._rows[[row for _, row in kept], :shared]
        self._num_read = [0 if o is None else min(self._num_read[o], shared) for o in origins]
        self._lists, self._rows = list(tables), rows
