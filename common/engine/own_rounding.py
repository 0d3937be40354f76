"""Rounding of keys and values where a model attends by itself, as blocks of 8 bits round them.

A rounded key may turn a weight of attention or the choice of an expert over, and all that follows from it. A
self-check that compares with full keys and values would take that for a fault.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch

from common.engine.memory.quantized_kv import Levels

_levels: ContextVar[Levels | None] = ContextVar("levels of a model's own caches", default=None)
_watching = threading.Lock()
_CACHED = ("DynamicLayer", "DynamicSlidingWindowLayer")


@contextmanager
def rounded_kv(model: torch.nn.Module, levels: Levels | None) -> Iterator[None]:
    """Have a model of `transformers` attend over rounded keys and values, those of its own step too.

    Latents are rounded twice, as ours are: with what is rotated of keys, and alone as values. None changes
    nothing. No other thread is affected.
    """
    if levels is None:
        yield
        return
    latent = [m for m in model.modules() if hasattr(m, "expand_kv") and hasattr(m, "kv_b_proj")]
    for module in latent:
        module.expand_kv = _expanding_rounded(module.expand_kv, levels)
    _watch_caches()
    token = _levels.set(None if latent else levels)
    try:
        yield
    finally:
        _levels.reset(token)
        for module in latent:
            del module.expand_kv


def rounded(x: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Return what is read of keys or values [..., channels of a head] that were stored in 8 bits."""
    return levels.dequantize(levels.quantize(x), x.shape[-1]).to(x.dtype)


def _watch_caches() -> None:
    """Have the caches of `transformers` ask for levels; models that run without it have none."""
    module = sys.modules.get("transformers.cache_utils")
    with _watching:
        for name in _CACHED:
            kind = getattr(module, name, None)
            if kind is not None and not hasattr(kind.update, "asks_for_levels"):
                kind.update = _asking(kind.update)


def _asking(update: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(update)
    def asking(
        self: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if levels := _levels.get():
            keys, values = rounded(keys, levels), rounded(values, levels)
        return update(self, keys, values, *args, **kwargs)

    asking.asks_for_levels = True  # type: ignore[attr-defined]
    return asking


def _expanding_rounded(expand: Callable[..., Any], levels: Levels) -> Callable[..., Any]:
    def expand_kv(latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key = rounded(torch.cat((latent, rotated), dim=-1), levels)
        sizes = latent.shape[-1], rotated.shape[-1]
        keys, _ = expand(*key.split(sizes, dim=-1))
        _, values = expand(rounded(latent, levels), rotated)
        return keys, values

    return expand_kv
