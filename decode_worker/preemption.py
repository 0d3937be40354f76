"""What becomes of a preempted sequence's KV: kept in host memory, or computed again. No tensors here."""

from typing import Literal, Protocol

from common.engine.sequence import Sequence

Mode = Literal["auto", "swap", "recompute"]
_SMOOTHING = 0.2


class HostMemory(Protocol):
    """Where KV may wait; common/engine/host_swap.py is the real one."""

    def save(self, seq: Sequence) -> bool:
        """Copy the computed KV out of the sequence's blocks; False when there is no room for it."""

    def restore(self, seq: Sequence) -> None:
        """Copy what the sequence's new blocks lack back in, count it as computed, forget the copy.

        Does nothing without a copy.
        """

    def drop(self, seq: Sequence) -> None:
        """Forget the copy, if there is one."""


class Costs:
    """Seconds a token, as measured here: running it as prefill, and copying its KV one way."""

    def __init__(self, prefill_s: float = 2e-4, copy_s: float = 1e-5) -> None:
        """Both are guesses until something was measured."""
        self.prefill_s = prefill_s
        self.copy_s = copy_s

    def note_prefill(self, num_tokens: int, seconds: float) -> None:
        """A step ran `num_tokens`, most of them of prompts."""
        self.prefill_s += _SMOOTHING * (seconds / num_tokens - self.prefill_s)

    def note_copy(self, num_tokens: int, seconds: float) -> None:
        """KV of `num_tokens` was copied out or in."""
        self.copy_s += _SMOOTHING * (seconds / num_tokens - self.copy_s)


class Preemption:
    """Chooses the cheaper way back for each sequence that loses its blocks."""

    def __init__(self, mode: Mode, costs: Costs, memory: HostMemory) -> None:
        self._mode = mode
        self.costs = costs
        self._memory = memory
        self.num_swapped = 0
        self.num_recomputed = 0

    def set_aside(self, seq: Sequence, num_shared_tokens: int) -> None:
        """Before the blocks go. `num_shared_tokens` stay, in the blocks of others."""
        if self._prefers_swap(seq.num_computed_tokens, num_shared_tokens) and self._memory.save(
            seq
        ):
            self.num_swapped += 1
        else:
            self.num_recomputed += 1

    def bring_back(self, seq: Sequence) -> None:
        """After it got blocks again."""
        self._memory.restore(seq)

    def forget(self, seq: Sequence) -> None:
        """It will not come back."""
        self._memory.drop(seq)

    def _prefers_swap(self, num_tokens: int, num_shared_tokens: int) -> bool:
        if self._mode != "auto":
            return self._mode == "swap"
        recompute_s = (num_tokens - num_shared_tokens) * self.costs.prefill_s
        return 2 * num_tokens * self.costs.copy_s < recompute_s
