"""Choosing the attention backend for a device."""

from collections.abc import Callable

from common.config import Backend
from common.engine.attention.backend import AttentionBackend
from common.engine.attention.reference import ReferenceBackend
from common.engine.kv_cache import KVCache
from pdserve.errors import SetupError


def select_backend(name: Backend, cache: KVCache, num_heads: int) -> AttentionBackend:
    """Build the named backend; `auto` takes the fastest that fits. Raises SetupError."""
    available = _available(cache)
    if name == "auto":
        name = "cpu" if "cpu" in available else "reference"
    if name not in available:
        raise SetupError(
            f"engine.attention_backend '{name}' is not available on {cache.keys.device.type} "
            f"for blocks of {cache.block_size} positions and heads of {cache.head_dim} channels",
            f"this machine has: {', '.join(sorted(available))}",
        )
    return available[name](cache, num_heads)


def _available(cache: KVCache) -> dict[str, Callable[[KVCache, int], AttentionBackend]]:
    found: dict[str, Callable[[KVCache, int], AttentionBackend]] = {"reference": _reference}
    if cache.keys.device.type == "cpu":
        # numba takes 0.3 s to import; a CUDA worker never needs it
        from common.engine.attention.cpu import CpuBackend

        if CpuBackend.fits(cache):
            found["cpu"] = CpuBackend
    return found


def _reference(cache: KVCache, num_heads: int) -> AttentionBackend:
    return ReferenceBackend(cache)
