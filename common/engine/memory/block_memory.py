"""Zeroed memory for KV blocks, which a thread takes from the system once a worker has started.

The system needs 0.7 s of a core to clear a gibibyte, longer than a small model's whole loading. Nobody
needs that memory before many sequences run.
"""

import contextlib
import ctypes
import math
import mmap
import os
import threading
from collections.abc import Sequence

import torch

from common.engine.memory.huge_pages import private_bytes

_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it
_STEP_BYTES = 4 * 2**20  # takes a few ms, for which others that map memory wait
_LOWEST_PRIORITY = 19
_MOST_AT_START = 2**30  # bytes; the rest comes as blocks are used, the first ones first


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate zeroed memory. On the host a page is taken when it is first written.

    Pages are huge where the kernel grants them. Blocks lie scattered: with small pages a decode step
    spends more time on address translation than on keys and values.
    """
    if device.type != "cpu" or 0 in shape:  # no memory of no bytes can be mapped
        return torch.zeros(*shape, dtype=dtype, device=device)
    return private_bytes(math.prod(shape) * dtype.itemsize).view(dtype).view(*shape)


def take_in_background(
    tensors: Sequence[torch.Tensor], max_bytes: int = _MOST_AT_START
) -> threading.Thread:
    """Take pages of such host tensors from the system, beside the process's other work.

    Tensors are [layers, blocks, ...]. At most `max_bytes` are taken, of the first blocks of all layers.

    A page that is first written when KV arrives holds a decode step up: in a virtual machine a fault may
    take 12 us. An insert of 512 tokens took 50 ms so, and takes 6.
    """
    thread = threading.Thread(
        target=_take, args=(_first_blocks(tensors, max_bytes),), name="kv-memory", daemon=True
    )
    thread.start()
    return thread


def _first_blocks(tensors: Sequence[torch.Tensor], max_bytes: int) -> list[torch.Tensor]:
    """Return the memory of as many blocks as fit into `max_bytes`: of each tensor a piece a layer."""
    num_bytes = sum(tensor.nbytes for tensor in tensors)
    if num_bytes <= max_bytes:
        return list(tensors)
    return [layer[: len(layer) * max_bytes // num_bytes] for tensor in tensors for layer in tensor]


def _take(tensors: Sequence[torch.Tensor]) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    # called by ctypes, which lets other threads run meanwhile
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for tensor in tensors:
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        start -= start % mmap.PAGESIZE  # of the same mapping, which begins with a page
        for at in range(start, end, _STEP_BYTES):
            if madvise(at, min(_STEP_BYTES, end - at), _MADV_POPULATE_WRITE):
                return  # an older kernel, or too little memory: pages come as they are used
