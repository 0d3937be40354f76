"""Copies between the host and a CUDA device that make neither wait for the other.

A plain `.to(device)` or `.tolist()` makes the host wait until the device has done everything queued before.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from numpy.typing import NDArray


class HostCopies(Protocol):
    """Copier to the host in the background."""

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin a copy; the function returned waits for it."""


def to_device(numbers: NDArray, device: torch.device) -> torch.Tensor:  # type: ignore[type-arg]
    """Return the array as a tensor on `device`. On a CPU it is the array's own memory.

    On CUDA the copy runs in the current stream's order and is not waited for; the array may change at once.
    Torch keeps the pinned memory until it has been read.
    """
    tensor = torch.from_numpy(numbers)
    if device.type != "cuda" or not tensor.numel():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceCopies:
    """HostCopies on a stream of their own, into pinned memory that the device writes without the CPU."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin behind what made `tensor` on the current stream; the function returned waits for its copy.

        The tensor may be dropped at once: its memory is not given to others before it was read.
        """
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        done = torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
            done.record()
        tensor.record_stream(self._stream)

        def wait() -> torch.Tensor:
            done.synchronize()
            return host

        return wait
