"""Modules of xLSTM (Beck et al. 2024): each takes a matrix, a vector and a maximum, and returns the next."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from common.engine.state.layer_state import LayerState
from common.engine.state.layout import Key
from common.engine.state.mixer import Mixer, Rows, with_nothing
from common.engine.state.own import OwnState

_KEYS: tuple[Key, ...] = tuple(("recurrent", index) for index in range(3))


def mixers(model: Any, layers: frozenset[int]) -> list[Mixer]:
    """Return the mixer of each layer."""
    blocks = model.base_model.blocks
    modules = {layer: blocks[layer].mlstm_layer for layer in sorted(layers)}
    return [
        Mixer(layer, module, partial(_run, module.forward), with_nothing)
        for layer, module in modules.items()
    ]


def own_states(model: Any, output: Any) -> Iterator[OwnState]:
    """Yield the states in the cache that a whole forward pass has returned."""
    for layer, states in output.cache_params.rnn_state.items():
        for key, state in zip(_KEYS, states, strict=True):
            yield layer, key, state


def _run(own: Any, hidden: torch.Tensor, state: LayerState) -> Rows:
    before = tuple(state.get_or_fill(key, len(hidden)) for key in _KEYS)
    output, after = own(hidden, before)
    for key, part in zip(_KEYS, after, strict=True):
        state.update_recurrent_state(part, 0, key[1])
    return (output,)
