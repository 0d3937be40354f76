"""Arrays of a step that the CPU's attention kernels read, and the place where those of decode steps lie."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.engine.cpu.attention_kernel import QUERY_TILE
from common.engine.cpu.kv_store import Slots
from common.engine.ragged import RaggedInputs

Numbers = NDArray[np.int32]
MOST_DECODED = 64  # tokens of a step whose arrays are kept


class StepArrays(NamedTuple):
    """Arrays of one step of S sequences."""

    slots: Slots
    block_tables: Numbers  # [S, most blocks of any]
    query_start: Numbers  # [S + 1]
    context_len: Numbers  # [S]
    items: Numbers  # [n, 3], as _work_items returns them
    sampled_items: Numbers

    def of_items(self, sampled_only: bool) -> tuple[Numbers, ...]:
        """Return what an attention kernel takes: tables, starts, contexts, items."""
        items = self.sampled_items if sampled_only else self.items
        return self.block_tables, self.query_start, self.context_len, items


def is_decode(inputs: RaggedInputs) -> bool:
    """Return True for a step of one token a sequence, MOST_DECODED at most."""
    return len(inputs.input_ids) == len(inputs.context_len) <= MOST_DECODED


def step_arrays(inputs: RaggedInputs, block_size: int, num_threads: int) -> StepArrays:
    """Make the arrays of any step."""
    slots = Slots.of(inputs.slot_mapping, block_size)
    tables = inputs.block_tables, inputs.query_start, inputs.context_len
    items = _work_items(inputs, num_threads)
    return StepArrays(slots, *tables, items, _sampled_items(items, inputs))


class DecodeArrays:
    """Memory for the arrays of decode steps: calls that read them can be repeated."""

    def __init__(self, num_blocks: int) -> None:
        rows = np.arange(MOST_DECODED + 1)
        self._rows, self._starts = rows, rows.astype(np.int32)
        self._slots = np.zeros(MOST_DECODED, np.int64)
        self._contexts = np.zeros(MOST_DECODED, np.int32)
        # a sequence has no more blocks than there are; pages that no step has touched take no memory
        self._tables = np.zeros((MOST_DECODED, num_blocks), np.int32)
        self._items = np.tile(np.array([0, 0, 1], np.int32), (MOST_DECODED, 1))

    def fill(self, inputs: RaggedInputs, num_threads: int) -> StepArrays:
        """Copy the arrays of a decode step."""
        count, width = inputs.block_tables.shape
        slots, contexts, items = self._slots[:count], self._contexts[:count], self._items[:count]
        slots[:], contexts[:] = inputs.slot_mapping, inputs.context_len
        self._tables[:count, :width] = inputs.block_tables
        items[:, 0] = _dealt(inputs.context_len, num_threads)
        # each token is a run of its own, and its row its start
        runs = Slots(slots, self._rows[:count], self._rows[1 : count + 1])
        tables = self._tables[:count], self._starts[: count + 1], contexts
        return StepArrays(runs, *tables, items, _sampled_items(items, inputs))


def _dealt(costs: Numbers, num_threads: int) -> NDArray[np.int64]:
    """Return the order in which items cost every thread a like share.

    Each thread gets one run of consecutive items, so the costliest ones are dealt out in turn.
    """
    if len(costs) <= num_threads:
        return np.arange(len(costs))
    order = np.argsort(-costs, kind="stable")
    return np.concatenate([order[i::num_threads] for i in range(num_threads)])


def _work_items(inputs: RaggedInputs, num_threads: int) -> Numbers:
    """Return [n, 3]: sequence, first and end query of tiles, so that every thread has a like share."""
    counts = np.diff(inputs.query_start)
    tiles = -(-counts // QUERY_TILE)
    seq = np.repeat(np.arange(len(counts), dtype=np.int32), tiles)
    within = np.arange(len(seq)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    first = within * QUERY_TILE
    end = np.minimum(first + QUERY_TILE, counts[seq])
    items = np.stack((seq, first, end), axis=1).astype(np.int32)
    cost = (inputs.context_len[seq] - counts[seq] + end) * (end - first)
    return items[_dealt(cost, num_threads)]


def _sampled_items(items: Numbers, inputs: RaggedInputs) -> Numbers:
    """Return the items with a query that samples."""
    if len(inputs.sample_rows) == len(inputs.input_ids):
        return items
    origin, rows = inputs.query_start[items[:, 0]], np.sort(inputs.sample_rows)
    before, behind = (rows.searchsorted(origin + items[:, column]) for column in (1, 2))
    return items[before < behind]
