"""Recurrent blocks of Griffin (De et al. 2024; RecurrentGemma), which keep their states as attributes."""

from collections.abc import Iterator
from typing import Any

import torch

from common.engine.state.layer_state import LayerState
from common.engine.state.layout import Key
from common.engine.state.mixer import Mixer, Rows, with_nothing
from common.engine.state.own import OwnState

_CONV: Key = ("conv", 0)
_RECURRENT: Key = ("recurrent", 0)


def mixers(model: Any, layers: frozenset[int]) -> list[Mixer]:
    """Return the mixer of each layer."""
    modules = {layer: _module(model, layer) for layer in sorted(layers)}
    return [
        Mixer(layer, module, _Block(module).run, with_nothing) for layer, module in modules.items()
    ]


def own_states(model: Any, output: Any) -> Iterator[OwnState]:
    """Yield the states that a whole forward pass has left in the modules."""
    for layer, kind in enumerate(model.config.layer_types):
        if kind == "linear_attention":
            module = _module(model, layer)
            yield layer, _CONV, module.conv1d_state
            yield layer, _RECURRENT, module.rg_lru.recurrent_states


def _module(model: Any, layer: int) -> Any:
    return model.base_model.layers[layer].temporal_block


class _Block:
    """Run of one recurrent block, whose convolution goes on from the state of the call."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._own, self._conv = module.forward, module.conv_1d.forward
        self._state: LayerState | None = None
        module.conv_1d.forward = self._continued

    def run(self, hidden: torch.Tensor, state: LayerState) -> Rows:
        """Compute tokens [B, T, channels]."""
        module, (num_sequences, num_tokens) = self._module, hidden.shape[:2]
        module.conv1d_state = state.get_or_fill(_CONV, num_sequences)
        module.rg_lru.recurrent_states = state.get_or_fill(_RECURRENT, num_sequences)
        # the block only asks which token is the first one
        positions = torch.arange(num_tokens, device=hidden.device) + state.has_previous_state()
        self._state = state
        try:
            output, _ = self._own(hidden, positions[None], None)
        finally:
            self._state = None
        if num_tokens == 1:  # it has not called its convolution
            state.update_conv_state(module.conv1d_state, 0)
        state.update_recurrent_state(module.rg_lru.recurrent_states, 0)
        return (output,)

    def _continued(self, inputs: torch.Tensor) -> torch.Tensor:
        """Convolve inputs [B, channels, T] behind those of the state."""
        if self._state is None:
            whole: torch.Tensor = self._conv(inputs)
            return whole
        behind = self._state.update_conv_state(inputs, 0)
        found: torch.Tensor = self._conv(behind)[..., : behind.shape[-1]]
        return found[..., -inputs.shape[-1] :]
