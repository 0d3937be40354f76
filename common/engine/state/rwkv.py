"""RWKV's modules (Peng et al. 2023): each is given the states of all layers, and changes its own.

State 0 is the last input of a layer's feed-forward module, 1 that of its attention. States 2 to 4 are two
sums weighted by exp, and the exponent that is taken out of both.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from common.engine.state.layer_state import LayerState
from common.engine.state.layout import Key
from common.engine.state.mixer import Mixer, Rows, with_nothing
from common.engine.state.own import OwnState

_KEYS: tuple[Key, ...] = tuple(("recurrent", index) for index in range(5))
_NOTHING = -1e30  # exponent before any token


class _OwnSlice:
    """Stands for the states [B, channels, layers] of a kind, for a module that knows its own layer's."""

    def __init__(self, state: torch.Tensor) -> None:
        self.state = state

    def __getitem__(self, index: object) -> torch.Tensor:
        return self.state

    def __setitem__(self, index: object, state: torch.Tensor) -> None:
        self.state = state


def mixers(model: Any, layers: frozenset[int]) -> list[Mixer]:
    """Return the two mixers of each layer."""
    found = []
    for layer in sorted(layers):
        block = model.base_model.blocks[layer]
        for module, keys in ((block.feed_forward, _KEYS[:1]), (block.attention, _KEYS[1:])):
            run = partial(_run, module.forward, keys)
            found.append(Mixer(layer, module, run, with_nothing, frozenset(keys)))
    return found


def own_states(model: Any, output: Any) -> Iterator[OwnState]:
    """Yield the states that a whole forward pass has returned, each [1, channels]."""
    for layer in range(len(model.base_model.blocks)):
        for key, states in zip(_KEYS, output.state, strict=True):
            yield layer, key, states[..., layer]


def _run(own: Any, keys: tuple[Key, ...], hidden: torch.Tensor, state: LayerState) -> Rows:
    given: list[_OwnSlice | None] = [None] * len(_KEYS)
    mine = []
    for key in keys:
        before = state.get_or_fill(key, len(hidden), _NOTHING if key == _KEYS[4] else 0.0)
        # the module reads the last input as that of one sequence: [B, channels] would count as tokens
        mine.append(_OwnSlice(before[:, None] if key in _KEYS[:2] else before))
        given[key[1]] = mine[-1]
    output, _ = own(hidden, state=given)
    for key, after in zip(keys, mine, strict=True):
        state.update_recurrent_state(after.state, 0, key[1])
    return (output,)
