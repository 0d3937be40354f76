"""States that a model left in `transformers`' own cache: their layout, and what they must equal."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from common.engine.state.layout import Key, StateLayout, StatePart

OwnState = tuple[int, Key, torch.Tensor]  # a layer, and a state [1, ...] of it

_KINDS = {"conv": "conv_states", "recurrent": "recurrent_states"}


def cached_states(model: Any, output: Any) -> Iterator[OwnState]:
    """Yield the states in the cache that a model has returned."""
    cache = _cache(output)
    for layer, cache_layer in enumerate(getattr(cache, "layers", ())):
        for kind, attribute in _KINDS.items():
            states = getattr(cache_layer, attribute, None)
            for index, state in (states if isinstance(states, dict) else {}).items():
                if state is not None:
                    yield layer, (kind, index), state
    # MiniMax's own cache has an empty list for each layer that attends
    for layer, state in enumerate(getattr(cache, "linear_cache", ())):
        if isinstance(state, torch.Tensor):
            yield layer, ("recurrent", 0), state


def read_states(states: Iterable[OwnState]) -> tuple[StateLayout, list[torch.Tensor]]:
    """Return the layout of one sequence's state, and its tensors."""
    parts: list[StatePart] = []
    tensors: list[torch.Tensor] = []
    for layer, key, state in states:
        tensors.append(state[0])
        parts.append(_part(layer, key, state[0]))
    return StateLayout(tuple(parts)), tensors


def _cache(output: Any) -> object:
    """Return the cache that a model has returned; models without attention have another name for it."""
    cache = getattr(output, "cache_params", None)
    return getattr(output, "past_key_values", None) if cache is None else cache


def _part(layer: int, key: Key, state: torch.Tensor) -> StatePart:
    dtype = str(state.dtype).removeprefix("torch.")
    return StatePart(layer, key, tuple(state.shape), dtype, state.numel() * state.itemsize)
