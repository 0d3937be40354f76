"""Host memory in huge pages, where the kernel grants them.

A decode step streams all weights, and with small pages it waits for address translation (benchmarks/NOTES.md,
"Weights in huge pages").
"""

import contextlib
import math
import mmap
from collections.abc import Callable, Sequence

import torch

Allocate = Callable[[Sequence[int], torch.dtype], torch.Tensor]
"""Function that returns a tensor [shape] of a dtype, filled with nothing."""

_HUGE_BYTES = 2**21
_LINE_BYTES = 64
_CHUNK_BYTES = 2**26  # what nobody writes takes no memory


def private_bytes(num_bytes: int) -> torch.Tensor:
    """Map zeroed memory, uint8 [num_bytes]. A page is taken when it is first written."""
    # private: the kernel has no huge pages for shared memory unless told so for the whole system
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that does not know it
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class HugePages:
    """Memory for many tensors that live as long as each other: small ones share a page."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Implement Allocate. The memory goes back with the last tensor of its chunk."""
        num_bytes = math.prod(shape) * dtype.itemsize
        taken = -(-num_bytes // _LINE_BYTES) * _LINE_BYTES
        if taken >= _CHUNK_BYTES:
            return _chunk(num_bytes).view(dtype).view(*shape)
        if taken > len(self._free):
            self._free = _chunk(_CHUNK_BYTES)
        memory, self._free = self._free[:num_bytes], self._free[taken:]
        return memory.view(dtype).view(*shape)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a contiguous tensor."""
        made = self.empty(tensor.shape, tensor.dtype)
        # as bytes: torch has few operations on unsigned words
        made.view(torch.uint8).copy_(tensor.view(torch.uint8))
        return made


def _chunk(num_bytes: int) -> torch.Tensor:
    """Map memory that begins where a huge page does."""
    memory = private_bytes(num_bytes + _HUGE_BYTES)
    first = -memory.data_ptr() % _HUGE_BYTES
    return memory[first : first + num_bytes]


def plain(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Implement Allocate with torch's own memory."""
    return torch.empty(*shape, dtype=dtype)
