"""From a Batch to the flat arrays that a ragged forward pass reads."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.batch import Batch
from common.engine.device_copy import to_device

_UNKNOWN = (0,)  # stands for a token that is still on the device


@dataclass(frozen=True, slots=True)
class Carried:
    """Input ids that the device alone knows: the step before sampled them."""

    places: NDArray[np.int64]  # [C] in `input_ids`
    sources: NDArray[np.int64]  # [C] in `tokens`
    tokens: torch.Tensor  # [samples of the step before] int64, on the device

    def write_into(self, ids: torch.Tensor) -> None:
        """Put them into the step's ids [T] on the device, in the stream's order; waits for nothing."""
        sources, places = (to_device(rows, ids.device) for rows in (self.sources, self.places))
        ids.index_copy_(0, places, self.tokens.index_select(0, sources))


@dataclass(frozen=True, slots=True)
class RaggedInputs:
    """One step's inputs. T tokens of S sequences; no padding except in `block_tables`.

    Sequence s owns tokens `query_start[s]:query_start[s+1]`; they are the last ones of its
    `context_len[s]` positions, so token i of n sits at position `context_len - n + i`.
    """

    input_ids: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [T]
    slot_mapping: NDArray[np.int64]  # [T] block_id * block_size + offset
    query_start: NDArray[np.int32]  # [S + 1]
    context_len: NDArray[np.int32]  # [S] after this step
    block_tables: NDArray[np.int32]  # [S, most blocks of any]
    sample_rows: NDArray[
        np.int64
    ]  # rows of [0, T) whose logits are wanted: all that sample, then scored ones
    carried: Carried | None = None

    @staticmethod
    def from_batch(batch: Batch, block_size: int) -> "RaggedInputs":
        """Flatten a batch; every sequence must already hold blocks for the tokens it runs."""
        counts = np.array([entry.num_tokens for entry in batch.entries], dtype=np.int32)
        computed = np.array([e.seq.num_computed_tokens for e in batch.entries], dtype=np.int32)
        query_start = np.zeros(len(counts) + 1, dtype=np.int32)
        np.cumsum(counts, out=query_start[1:])
        context_len = computed + counts
        block_tables = _pad_tables(batch, context_len, block_size)
        within = np.arange(query_start[-1], dtype=np.int64) - np.repeat(query_start[:-1], counts)
        positions = within + np.repeat(computed, counts)
        seq_index = np.repeat(np.arange(len(counts)), counts)
        slots = block_tables[seq_index, positions // block_size].astype(np.int64) * block_size
        samples = np.array([entry.samples for entry in batch.entries], dtype=bool)
        sample_rows = (query_start[1:][samples] - 1).astype(np.int64)
        return RaggedInputs(
            input_ids=_token_ids(batch),
            positions=positions,
            slot_mapping=slots + positions % block_size,
            query_start=query_start,
            context_len=context_len,
            block_tables=block_tables,
            sample_rows=np.concatenate((sample_rows, *_scored_rows(batch, query_start))),
        )


def _token_ids(batch: Batch) -> NDArray[np.int64]:
    flat: list[int] = []
    for entry in batch.entries:
        start = entry.seq.num_computed_tokens
        flat.extend(entry.seq.token_ids[start : start + entry.num_tokens] or _UNKNOWN)
    return np.array(flat, dtype=np.int64)


def _scored_rows(batch: Batch, query_start: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """The rows that precede the entries' scored positions."""
    rows = []
    for entry, start in zip(batch.entries, query_start, strict=False):
        if entry.seq.prompt_logprobs is not None:
            scored = entry.scored_positions
            first = int(start) - entry.seq.num_computed_tokens - 1
            rows.append(np.arange(first + scored.start, first + scored.stop, dtype=np.int64))
    return rows


def _pad_tables(batch: Batch, context_len: NDArray[np.int32], block_size: int) -> NDArray[np.int32]:
    num_blocks = -(-context_len // block_size)
    tables = np.zeros((len(context_len), int(num_blocks.max())), dtype=np.int32)
    for row, (entry, n) in enumerate(zip(batch.entries, num_blocks, strict=True)):
        tables[row, :n] = entry.seq.block_table[:n]
    return tables
