"""Choice of the attention backend for a device."""

from collections.abc import Callable

from common.config import Backend
from common.engine.attention.backend import AttentionBackend
from common.engine.attention.flash import FlashBackend
from common.engine.attention.reference import ReferenceBackend
from common.engine.memory.kv_cache import KVCache
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

_log = get_logger()
_FASTEST_FIRST: tuple[Backend, ...] = ("flash", "cpu", "reference")


def select_backend(
    name: Backend, cache: KVCache, num_heads: int, extras: tuple[str, ...] = ()
) -> AttentionBackend:
    """Build the named backend; `auto` takes the fastest that fits a model with these `extras`.

    Where no layer attends, any will do. Raises SetupError.
    """
    if min(cache.places) >= len(cache.shapes):
        return ReferenceBackend(cache)
    available = _available(cache)
    if extras and available.pop("flash", None) is not None:
        _log.warning("flash_left_out", reason=extras[0], instead="reference")
    if name == "auto":
        name = next(known for known in _FASTEST_FIRST if known in available)
        if name == "reference":
            _log.warning("attention_is_slow", backend=name, blocks=_describe(cache))
    if name not in available:
        if extras and name == "flash" and FlashBackend.can_read(cache):
            raise SetupError(
                f"engine.attention_backend 'flash' does not honour {extras[0]}, which the model has",
                f"this machine has: {', '.join(sorted(available))}",
            )
        device = cache.keys.device.type
        raise SetupError(
            f"engine.attention_backend '{name}' is not available on {device} for {cache.kv_dtype} blocks of "
            f"{_describe(cache)}",
            f"this machine has: {', '.join(sorted(available))}",
        )
    return available[name](cache, num_heads)


def _describe(cache: KVCache) -> str:
    """Name the sizes that decide which kernels fit."""
    dims = sorted({dim for _, *dims in cache.shapes for dim in dims})
    channels = " and ".join(map(str, dims))
    return f"{cache.block_size} positions and heads of {channels} channels"


def _available(cache: KVCache) -> dict[str, Callable[[KVCache, int], AttentionBackend]]:
    found: dict[str, Callable[[KVCache, int], AttentionBackend]] = {"reference": _reference}
    if cache.keys.device.type == "cpu":
        # numba takes 0.3 s to import; a CUDA worker never needs it
        from common.engine.attention.cpu import CpuBackend

        if CpuBackend.can_read(cache):
            found["cpu"] = CpuBackend
    if FlashBackend.can_read(cache):
        found["flash"] = _flash
    return found


def _flash(cache: KVCache, num_heads: int) -> AttentionBackend:
    return FlashBackend(cache)


def _reference(cache: KVCache, num_heads: int) -> AttentionBackend:
    return ReferenceBackend(cache)
