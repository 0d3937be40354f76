"""Rounding of keys and values where a model attends by itself, as blocks of 8 bits round them.

A rounded key may turn a weight of attention or the choice of an expert over, and all that follows from it. A
self-check that compares with full keys and values would take that for a fault.

1. A layer of `transformers` gives its keys and values to a cache, by `Cache.update`: whichever kind of cache
   it is, and of layer in it. They are rounded there.
2. Latents are cached, but expanded for attention. They are rounded where that is done.
3. Whatever has another way asks `as_cached` (GPT-1), or is missing in what `rounded_kv` yields.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch

from common.engine.memory.quantized_kv import Levels


@dataclass(frozen=True, slots=True)
class _Rounding:
    """Rounding of one model's keys and values."""

    levels: Levels
    latent: frozenset[int]  # layers whose cache keeps latents
    layers: set[int] = field(default_factory=set)  # that have been rounded


_current: ContextVar[_Rounding | None] = ContextVar("rounding of a model's own KV", default=None)
_watching = threading.Lock()


@contextmanager
def rounded_kv(model: torch.nn.Module, levels: Levels | None) -> Iterator[set[int]]:
    """Have a model of `transformers` attend over rounded keys and values, those of its own step too.

    Yields the layers that were rounded so far, by the numbers that the model gives them. Latents are rounded
    twice, as ours are: with what is rotated of keys, and alone as values. None changes nothing. No other
    thread is affected.
    """
    if levels is None:
        yield set()
        return
    latent: list[Any] = [m for m in model.modules() if _has_latents(m)]
    rounding = _Rounding(levels, frozenset(m.layer_idx for m in latent))
    for module in latent:
        module.expand_kv = _expanding_rounded(module.expand_kv, module.layer_idx, rounding)
    _watch_caches()
    token = _current.set(rounding)
    try:
        yield rounding.layers
    finally:
        _current.reset(token)
        for module in latent:
            del module.expand_kv


def rounded(x: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Return what is read of keys or values [..., channels of a head] that were stored in 8 bits."""
    return levels.dequantize(levels.quantize(x), x.shape[-1]).to(x.dtype)


def as_cached(
    layer: int, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's keys and values [..., channels of a head], rounded inside `rounded_kv`."""
    rounding = _current.get()
    if rounding is None or layer in rounding.latent:
        return keys, values
    rounding.layers.add(layer)
    return rounded(keys, rounding.levels), rounded(values, rounding.levels)


def _has_latents(module: Any) -> bool:
    return hasattr(module, "expand_kv") and hasattr(module, "kv_b_proj")


def _watch_caches() -> None:
    """Have the caches of `transformers` round; models that run without it have none."""
    cache = getattr(sys.modules.get("transformers.cache_utils"), "Cache", None)
    with _watching:
        if cache is not None and not hasattr(cache.update, "rounds"):
            cache.update = _rounding_first(cache.update)


def _rounding_first(update: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(update)
    def update_rounded(
        self: Any,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        key_states, value_states = as_cached(layer_idx, key_states, value_states)
        return update(self, key_states, value_states, layer_idx, *args, **kwargs)

    update_rounded.rounds = True  # type: ignore[attr-defined]
    return update_rounded


def _expanding_rounded(
    expand: Callable[..., Any], layer: int, rounding: _Rounding
) -> Callable[..., Any]:
    levels = rounding.levels

    def expand_kv(latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rounding.layers.add(layer)
        key = rounded(torch.cat((latent, rotated), dim=-1), levels)
        sizes = latent.shape[-1], rotated.shape[-1]
        keys, _ = expand(*key.split(sizes, dim=-1))
        _, values = expand(rounded(latent, levels), rotated)
        return keys, values

    return expand_kv
