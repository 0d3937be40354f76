"""Choosing the attention backend for a device."""

from collections.abc import Callable

import torch

from common.config import Backend
from common.engine.attention.backend import AttentionBackend
from common.engine.attention.reference import ReferenceBackend
from common.engine.kv_cache import KVCache
from pdserve.errors import SetupError


def select_backend(name: Backend, cache: KVCache) -> AttentionBackend:
    """Build the named backend; `auto` takes the fastest that fits. Raises SetupError."""
    available = _available(cache.keys.device)
    if name == "auto":
        name = "cpu" if "cpu" in available else "reference"
    if name not in available:
        raise SetupError(
            f"engine.attention_backend '{name}' is not available on {cache.keys.device.type}",
            f"this machine has: {', '.join(sorted(available))}",
        )
    return available[name](cache)


def _available(device: torch.device) -> dict[str, Callable[[KVCache], AttentionBackend]]:
    found: dict[str, Callable[[KVCache], AttentionBackend]] = {"reference": ReferenceBackend}
    if device.type == "cpu":
        # numba takes 0.3 s to import; a CUDA worker never needs it
        from common.engine.attention.cpu import CpuBackend

        found["cpu"] = CpuBackend
    return found
