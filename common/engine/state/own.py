"""States that a model left in `transformers`' own cache: their layout, and what they must equal."""

from collections.abc import Iterable
from typing import Any

import torch

from common.engine.state.layout import StateLayout, StatePart

_KINDS = {"conv": "conv_states", "recurrent": "recurrent_states"}


def read_states(cache_layers: Iterable[Any]) -> tuple[StateLayout, list[torch.Tensor]]:
    """Return the layout of one sequence's state, and its tensors, of a batch of one sequence."""
    parts: list[StatePart] = []
    tensors: list[torch.Tensor] = []
    for layer, cache_layer in enumerate(cache_layers):
        for kind, attribute in _KINDS.items():
            states = getattr(cache_layer, attribute, None)
            for index, state in (states if isinstance(states, dict) else {}).items():
                if state is not None:
                    tensors.append(state[0])
                    parts.append(_part(layer, (kind, index), state[0]))
    return StateLayout(tuple(parts)), tensors


def _part(layer: int, key: tuple[str, int], state: torch.Tensor) -> StatePart:
    dtype = str(state.dtype).removeprefix("torch.")
    return StatePart(layer, key, tuple(state.shape), dtype, state.numel() * state.itemsize)
