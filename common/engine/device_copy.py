"""Tensors from a CUDA device to the host beside the computation."""

from collections.abc import Callable

import torch


class DeviceCopies:
    """Copies on a stream of their own into pinned memory, which the device reads without the CPU's help."""

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
