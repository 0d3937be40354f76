"""Double of CUDA's capture for the CPU: recorded operations are repeated, Python is not run again.

As on the device, numbers that Python passed to an operation are fixed from then on, each operation reads and
writes the tensors that it did at first, and asking for a tensor's value on the way is an error.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default}


class _Recorder(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            raise RuntimeError(f"{func} waits for the device\nand a capture does not")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


class RecordingCapture:
    """Capture that counts replays in `replayed`, in the order of the captures."""

    def __init__(self) -> None:
        self.replayed: list[int] = []
        self._num_captures = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        recorder, number = _Recorder(), self._num_captures
        self._num_captures += 1
        with recorder:
            run()

        def replay() -> None:
            self.replayed.append(number)
            with torch.inference_mode():
                for func, args, kwargs, out in recorder.calls:
                    _write(out, func(*args, **kwargs))

        return replay


def _write(old: Any, new: Any) -> None:
    """Put results into their first memory; views and in-place operations have written there already."""
    for before, after in zip(tree_leaves(old), tree_leaves(new), strict=True):
        if before.data_ptr() != after.data_ptr():
            before.copy_(after)
