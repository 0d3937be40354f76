"""States of one layer in one call, in the shape in which `transformers`' mixers ask their cache for them."""

from collections.abc import Mapping

import torch

from common.engine.state.layout import Key


class LayerState:
    """Stands for a `Cache` of `transformers` in one mixer, for the sequences of one call.

    A mixer gets a copy of the states and changes it in place, or replaces it. `store` writes the outcome to
    other rows, so what was read stays as it is.
    """

    def __init__(self, tensors: Mapping[Key, torch.Tensor], source: torch.Tensor | None) -> None:
        """Begin from the rows `source` [B] of each of `tensors`; None: before any state."""
        self._tensors = tensors
        self._source = source
        self._now: dict[Key, torch.Tensor] = {}

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the last inputs of a convolution, [B, channels, kernel]; None before any."""
        return self._get(("conv", state_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the recurrent state, [B, ...]; None before any."""
        return self._get(("recurrent", state_idx))

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Return True unless the call begins at position 0."""
        return self._source is not None

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return False: states are never taken back here."""
        return False

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
    ) -> torch.Tensor:
        """Append inputs [B, channels, T]; return them behind the state before, or behind zeros if few."""
        key = ("conv", state_idx)
        size = self._tensors[key].shape[-1]
        before = self._get(key)
        if before is not None:
            conv_states = torch.cat([before, conv_states], dim=-1)
        elif conv_states.shape[-1] < size:
            conv_states = torch.nn.functional.pad(conv_states, (size - conv_states.shape[-1], 0))
        self._now[key] = conv_states[..., -size:]
        return conv_states

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0
    ) -> torch.Tensor:
        """Replace the recurrent state, [B, ...]."""
        self._now[("recurrent", state_idx)] = recurrent_states
        return recurrent_states

    def get_linear_cache(self, layer_idx: int) -> torch.Tensor | None:
        """Return the recurrent state as MiniMax's modules ask for it."""
        return self._get(("recurrent", 0))

    def set_linear_cache(self, layer_idx: int, linear_cache: torch.Tensor) -> None:
        """Replace the recurrent state as MiniMax's modules do."""
        self._now[("recurrent", 0)] = linear_cache

    def get_or_fill(self, key: Key, num_sequences: int, number: float = 0.0) -> torch.Tensor:
        """Return a state [num_sequences, ...]; full of `number` at position 0."""
        state = self._get(key)
        if state is not None:
            return state
        memory = self._tensors[key]
        return memory.new_full((num_sequences, *memory.shape[1:]), number)

    def store(self, target: torch.Tensor) -> None:
        """Write the states to the rows `target` [B]. Raises KeyError where the mixer made none."""
        for key, memory in self._tensors.items():
            memory.index_copy_(0, target, self._now[key].to(memory.dtype))

    def _get(self, key: Key) -> torch.Tensor | None:
        if self._source is None or key not in self._tensors:
            return None
        if key not in self._now:
            self._now[key] = self._tensors[key].index_select(0, self._source)
        return self._now[key]
