"""Decode steps captured once and replayed, for batches padded to a few sizes; other steps run as they are.

A decode step of a large GPU is so short that launching its kernels one by one takes longer than running them.
A graph launches all of them at once, but its shapes and addresses never change. Therefore:

1. Sizes are buckets: 1, 2, 4, then every eighth. A batch is padded to the next one.
2. Padding rows are token 0 at position 0 of a scratch block, of which no BlockPool knows. A row's result
   depends on no other row, so they change nothing; their logits are cut off.
3. Block tables are as wide as the longest context needs, and attention is told that length.
4. Inputs, activations and logits lie in memory that this module owns for as long as the graphs live.

(CUDA graphs for decode over padded batch sizes: as in vLLM, Kwon et al. 2023, and SGLang, Zheng et al. 2024.)
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from common.engine.device_inputs import DeviceInputs
from common.engine.fused.decoder import FusedDecoder
from common.engine.ragged import RaggedInputs

MAX_BUCKET = 256  # sequences; above that the kernels are longer than their launches
_STRIDE = 8


class Capture(Protocol):
    """Recorder of work on the device: CudaCapture, or a double of the tests."""

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Call `run` and record its work on the device; the result repeats that, at the same addresses.

        Raises RuntimeError when it cannot be recorded.
        """


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Limits that every captured step keeps."""

    max_num_seqs: int
    max_blocks: int  # of one sequence
    block_size: int
    scratch_block: int  # in the cache, unknown to the pool

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes to capture, rising."""
        most = min(self.max_num_seqs, MAX_BUCKET)
        small = [size for size in (1, 2, 4) if size < most]
        return (*small, *range(_STRIDE, most, _STRIDE), most)


class GraphedDecoder:
    """TokenModel: a FusedDecoder whose decode steps are replayed. The constructor captures them.

    The logits of a decode step are overwritten by the next one.
    """

    name = "graphed"

    def __init__(
        self, decoder: FusedDecoder, limits: GraphLimits, inputs: DeviceInputs, capture: Capture
    ) -> None:
        self._decoder = decoder
        self._inputs = inputs  # of no other step: tensors of graphs must not move
        self._buckets = limits.buckets
        self._max_blocks = limits.max_blocks
        self._max_context = limits.max_blocks * limits.block_size
        most = self._buckets[-1]
        self._padding = _Padding(limits, most)
        self._work = decoder.new_workspace(most)
        self._logits = decoder.new_logits(most)
        # largest first: the inputs' buffer then never grows, and the others fit into the first one's memory
        self._replays = {size: self._capture(size, capture) for size in reversed(self._buckets)}

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        num_seqs = len(inputs.input_ids)
        if not self._is_decode(inputs):
            return self._decoder.logits(inputs)
        size = self._buckets[bisect_left(self._buckets, num_seqs)]
        self._inputs.copy(self._padding.pad(inputs, size))
        self._replays[size]()
        return self._logits[:num_seqs]

    def _is_decode(self, inputs: RaggedInputs) -> bool:
        """Return True if each sequence has one token, all logits are wanted, and the sizes were captured."""
        num_seqs = len(inputs.input_ids)
        return (
            num_seqs == len(inputs.context_len)
            and num_seqs <= self._buckets[-1]
            and inputs.block_tables.shape[1] <= self._max_blocks
            and np.array_equal(inputs.sample_rows, self._padding.rows[:num_seqs])
        )

    def _capture(self, size: int, capture: Capture) -> Callable[[], None]:
        step = self._inputs.put(self._padding.pad(_NOBODY, size))
        step = replace(step, max_context=self._max_context)
        work, logits = self._work.first(size), self._logits[:size]
        return capture(lambda: self._decoder.run(step, work, logits))


class _Padding:
    """Arrays on the host of a padded batch, written anew for each step."""

    def __init__(self, limits: GraphLimits, most: int) -> None:
        self._scratch_block = limits.scratch_block
        self._scratch_slot = limits.scratch_block * limits.block_size
        self.rows = np.arange(most, dtype=np.int64)
        self._starts = np.arange(most + 1, dtype=np.int32)
        self._ids, self._positions, self._slots = np.zeros((3, most), dtype=np.int64)
        self._contexts = np.zeros(most, dtype=np.int32)
        self._tables = np.zeros((most, limits.max_blocks), dtype=np.int32)

    def pad(self, inputs: RaggedInputs, size: int) -> RaggedInputs:
        """Return `inputs`, one token a sequence, with padding rows up to `size`."""
        num_seqs, num_blocks = inputs.block_tables.shape
        for ours, theirs, filler in (
            (self._ids, inputs.input_ids, 0),
            (self._positions, inputs.positions, 0),
            (self._slots, inputs.slot_mapping, self._scratch_slot),
            (self._contexts, inputs.context_len, 1),
            (self._tables[:, :num_blocks], inputs.block_tables, self._scratch_block),
        ):
            ours[:num_seqs] = theirs
            ours[num_seqs:size] = filler
        # beyond its context nothing is read of a table; a kernel that fetches ahead finds a block that exists
        self._tables[:size, num_blocks:] = self._scratch_block
        return RaggedInputs(
            input_ids=self._ids[:size],
            positions=self._positions[:size],
            slot_mapping=self._slots[:size],
            query_start=self._starts[: size + 1],
            context_len=self._contexts[:size],
            block_tables=self._tables[:size],
            sample_rows=self.rows[:size],
            carried=inputs.carried,
        )


def _nobody() -> RaggedInputs:
    ids, few = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    return RaggedInputs(ids, ids, ids, few, few, np.zeros((0, 0), dtype=np.int32), ids)


_NOBODY = _nobody()  # a batch of padding rows alone
