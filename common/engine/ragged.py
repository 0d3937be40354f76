"""Flat arrays that a ragged forward pass reads, made from a Batch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.batch import Batch
from common.engine.device_copy import to_device
from common.engine.memory.block_tables import BlockTables

_UNKNOWN = (0,)  # stands for a token that is still on the device


@dataclass(frozen=True, slots=True)
class Carried:
    """Input ids that the device alone knows: the step before sampled them."""

    places: NDArray[np.int64]  # [C] in `input_ids`
    sources: NDArray[np.int64]  # [C] in `tokens`
    tokens: torch.Tensor  # [samples of the step before] int64, on the device

    def write_into(self, ids: torch.Tensor) -> None:
        """Put these ids into the step's ids [T] on the device, in the stream's order; wait for nothing."""
        sources, places = (to_device(rows, ids.device) for rows in (self.sources, self.places))
        ids.index_copy_(0, places, self.tokens.index_select(0, sources))


@dataclass(frozen=True, slots=True)
class RaggedInputs:
    """Inputs of one step: T tokens of S sequences; no padding except in `block_tables`.

    Sequence s owns tokens `query_start[s]:query_start[s+1]`, the last ones of its `context_len[s]` positions.
    Token i of its n tokens sits at position `context_len - n + i`.
    """

    input_ids: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [T]
    slot_mapping: NDArray[np.int64]  # [T] block_id * block_size + offset
    query_start: NDArray[np.int32]  # [S + 1]
    context_len: NDArray[np.int32]  # [S] after this step
    block_tables: NDArray[np.int32]  # [S, most blocks of any]; see BlockTables.rows
    # rows of [0, T) whose logits are wanted: all that sample, then scored ones
    sample_rows: NDArray[np.int64]
    carried: Carried | None = None
    state_slots: tuple[int | None, ...] = ()  # [S] of a model with state

    @staticmethod
    def from_batch(
        batch: Batch, block_size: int, tables: BlockTables | None = None
    ) -> "RaggedInputs":
        """Flatten a batch; every sequence must already hold blocks for the tokens it runs.

        `tables` are those of the step before, if there was one. Lists are gathered first: after a step of
        the model no cache holds numpy's code, and each numpy function then costs as much as 64 list items.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled: list[int] = []
        query_start, context_len = [0], []
        for entry in batch.entries:
            seq, start, end = entry.seq, entry.start, entry.end
            ids += seq.token_ids[start:end] or _UNKNOWN
            if end - start == 1:
                positions.append(start)
                slots.append(seq.block_table[start // block_size] * block_size + start % block_size)
            else:
                positions += range(start, end)
                slots += _slots(seq.block_table, start, end, block_size)
            if entry.samples:
                sampled.append(len(ids) - 1)
            query_start.append(len(ids))
            context_len.append(end)
        block_tables = (tables or BlockTables()).rows(
            [entry.seq.block_table for entry in batch.entries],
            [-(-end // block_size) for end in context_len],
        )
        return RaggedInputs(
            input_ids=np.array(ids, dtype=np.int64),
            positions=np.array(positions, dtype=np.int64),
            slot_mapping=np.array(slots, dtype=np.int64),
            query_start=np.array(query_start, dtype=np.int32),
            context_len=np.array(context_len, dtype=np.int32),
            block_tables=block_tables,
            sample_rows=np.array(sampled + _scored_rows(batch, query_start), dtype=np.int64),
            state_slots=tuple([entry.seq.state_slot for entry in batch.entries]),
        )


def _scored_rows(batch: Batch, query_start: list[int]) -> list[int]:
    """Return the rows that precede the entries' scored positions."""
    rows: list[int] = []
    for entry, first in zip(batch.entries, query_start, strict=False):
        if entry.seq.prompt_logprobs is not None:
            rows += [first + position - entry.start - 1 for position in entry.scored_positions]
    return rows


def _slots(block_table: list[int], start: int, end: int, block_size: int) -> list[int]:
    """Return the slots of positions `start` to `end` - 1."""
    slots: list[int] = []
    for index in range(start // block_size, -(-end // block_size)):
        # position 0 of the sequence, if all of it lay where this block lies
        origin = (block_table[index] - index) * block_size
        first, behind = index * block_size, (index + 1) * block_size
        slots += range(origin + max(start, first), origin + min(end, behind))
    return slots
