"""Safetensors files of a folder, opened once each, to read tensors by name."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from common.engine.weights.stored import StoredTensor


class OpenFiles:
    """Files that tensors are read from, by any thread; each is opened when it is needed.

    They are closed when nobody holds this object any more. After an error of a load its threads may still
    read, and a file cannot be closed meanwhile.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors
        self._files: dict[Path, Any] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor whole."""
        path = self._tensors[name].file
        with self._lock:
            if path not in self._files:
                # read, not mapped, as `streamed` says
                self._files[path] = safe_open(path, framework="pt", device="cpu", backend="pread")
        tensor: torch.Tensor = self._files[path].get_tensor(name)
        return tensor
