"""Choice for a preempted sequence's KV: swap to host memory, or recompute. No tensors here."""

from typing import Literal, Protocol

from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.profile import count_pairs

Mode = Literal["auto", "swap", "recompute"]


class HostMemory(Protocol):
    """Memory where KV may wait; common/engine/memory/host_swap.py is the real one."""

    def save(self, seq: Sequence) -> bool:
        """Copy the computed KV out of the sequence's blocks; return False when there is no room for it."""

    def restore(self, seq: Sequence) -> None:
        """Copy the KV that the sequence's new blocks lack back in, and count it as computed.

        The copy is forgotten. Without one, nothing happens.
        """

    def num_bytes_of(self, seq: Sequence) -> int:
        """Return the size of the sequence's copy in bytes, 0 without one."""

    def drop(self, seq: Sequence) -> None:
        """Forget the copy, if there is one."""


class Preemption:
    """Chooses the cheaper way back for each sequence that loses its blocks."""

    def __init__(self, mode: Mode, costs: Costs, memory: HostMemory) -> None:
        self._mode = mode
        self._costs = costs
        self._memory = memory
        self.num_swapped = 0
        self.num_recomputed = 0

    def set_aside(self, seq: Sequence, num_shared_tokens: int) -> None:
        """Save a sequence's KV, or not, before its blocks are released.

        `num_shared_tokens` of it stay, in blocks that others hold too.
        """
        if self._prefers_swap(seq.num_computed_tokens, num_shared_tokens) and self._memory.save(
            seq
        ):
            self.num_swapped += 1
        else:
            self.num_recomputed += 1

    def bring_back(self, seq: Sequence) -> None:
        """Restore a sequence's KV, after it got blocks again."""
        self._memory.restore(seq)

    def num_host_bytes(self, seq: Sequence) -> int:
        """Return the bytes of host memory that a waiting sequence's KV takes."""
        return self._memory.num_bytes_of(seq)

    def forget(self, seq: Sequence) -> None:
        """Drop the copy of a sequence that will not come back."""
        self._memory.drop(seq)

    def _prefers_swap(self, num_tokens: int, num_shared_tokens: int) -> bool:
        if self._mode != "auto":
            return self._mode == "swap"
        profile, num_lost = self._costs.profile, num_tokens - num_shared_tokens
        # with one other sequence in the step, at least: the last one is never preempted
        recompute_s = profile.prompt_s(num_lost, count_pairs(num_lost, num_shared_tokens), 1)
        return profile.copy_out_s(num_tokens) + profile.insert_s(num_tokens) < recompute_s
