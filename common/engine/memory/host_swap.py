"""Swap of preempted sequences' KV to host memory."""

import time
from collections.abc import Callable

import torch

from common.engine.memory.kv_cache import KVCache
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.machine import read_memory


class HostSwap:
    """Copies in the wire layout, within a budget of bytes."""

    def __init__(
        self,
        cache: KVCache,
        prefix: PrefixCache,
        max_bytes: int,
        costs: Costs,
        usable_bytes: Callable[[], int] = lambda: read_memory().usable_bytes,
    ) -> None:
        """Start with no copies; `usable_bytes` returns the bytes left to the machine or container."""
        self._cache = cache
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._costs = costs
        self._usable_bytes = usable_bytes
        self._copies: dict[Sequence, torch.Tensor] = {}
        self.num_bytes = 0

    def save(self, seq: Sequence) -> bool:
        """Copy the computed KV out of the sequence's blocks; return False when there is no room for it."""
        num_tokens = seq.num_computed_tokens
        wanted = num_tokens * self._cache.num_bytes_per_token
        if not num_tokens or self.num_bytes + wanted > self._max_bytes:
            return False
        if wanted > self._usable_bytes():
            return False
        start_s = time.monotonic()
        copy = self._cache.read(seq.block_table, 0, num_tokens)
        self._costs.note_copy_out(copy.nbytes, time.monotonic() - start_s)
        self._copies[seq] = copy
        self.num_bytes += copy.nbytes
        return True

    def restore(self, seq: Sequence) -> None:
        """Copy back the KV that the sequence's new blocks lack, count it as computed, drop the copy.

        Does nothing without a copy. Positions of a known prefix are not written: their blocks are shared.
        """
        copy = self._copies.get(seq)
        if copy is None:
            return
        start, end = seq.num_computed_tokens, copy.nbytes // self._cache.num_bytes_per_token
        if start < end:
            start_s = time.monotonic()
            rest = self._cache.without_first(copy, start)
            self._cache.write(seq.block_table, start, rest)
            self._costs.note_insert(rest.nbytes, time.monotonic() - start_s)
            seq.num_computed_tokens = end
            self._prefix.publish(seq)
        self.drop(seq)

    def num_bytes_of(self, seq: Sequence) -> int:
        """Return the bytes of the sequence's copy, 0 without one."""
        copy = self._copies.get(seq)
        return 0 if copy is None else copy.nbytes

    def drop(self, seq: Sequence) -> None:
        """Forget the copy, if there is one."""
        copy = self._copies.pop(seq, None)
        if copy is not None:
            self.num_bytes -= copy.nbytes
