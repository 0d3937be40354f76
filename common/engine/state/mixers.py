"""Layers with state of a model of `transformers`, run sequence by sequence over the flat batch.

1. The model runs one flat row [1, T], as always. Each of its mixers (the modules that hold a convolution, a
   recurrence or both) is called once for each chunk of a prompt, and once for all decode tokens.
2. Each call reads and writes the states of its sequences (layer_state.py), through the interface that
   `transformers` gives its own cache. The module itself computes, with its kernels where it has some.
3. States count as written once the whole forward pass has run (`StepStates.end`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

from common.engine.ragged import RaggedInputs
from common.engine.state.cache import StateCache, Versions
from common.engine.state.layer_state import LayerState
from common.engine.state.mixer import Mixer, Rows


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of every mixer: a chunk of one sequence, or one token of each of several."""

    tokens: slice | torch.Tensor  # of the step's tokens
    source: torch.Tensor | None  # [B] rows of the cache
    target: torch.Tensor  # [B]
    is_decode: bool

    def pick(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the call's part of `hidden` [1, T, channels], as [B, tokens, channels]."""
        picked = hidden[0, self.tokens]
        return picked[:, None] if self.is_decode else picked[None]

    def place(self, output: torch.Tensor, into: torch.Tensor) -> None:
        """Put the call's output [B, tokens, ...] into its places of [1, T, ...]."""
        into[0, self.tokens] = output[:, 0] if self.is_decode else output[0]


class StepStates:
    """Owner of a step's calls. Between `begin` and `end` the model's mixers run by them."""

    def __init__(self, mixers: Iterable[Mixer], cache: StateCache) -> None:
        """Take over the mixers of a model."""
        self._cache = cache
        self._calls: list[_Call] = []
        self._written: list[tuple[int | None, Versions, int]] = []
        for mixer in mixers:
            mixer.module.forward = self._take_over(mixer)

    def begin(self, inputs: RaggedInputs) -> None:
        """Arrange the calls of a step. Raises StateError."""
        slots = inputs.state_slots or (None,) * len(inputs.context_len)
        spans = inputs.query_start.tolist()
        self._written = []
        decoding: list[tuple[int, Versions]] = []
        chunks = []
        for row, (slot, end) in enumerate(zip(slots, inputs.context_len.tolist(), strict=True)):
            first, behind = spans[row], spans[row + 1]
            start = end - (behind - first)
            versions = self._cache.begin(slot, start)
            self._written.append((slot, versions, end))
            if behind - first == 1 and start:
                decoding.append((first, versions))
            else:
                chunks.append(self._chunk(slice(first, behind), versions))
        self._calls = ([self._decode(decoding)] if decoding else []) + chunks

    def end(self) -> None:
        """Count the states that the step wrote."""
        for slot, versions, position in self._written:
            if slot is not None:
                self._cache.commit(versions, position)

    def leave(self) -> None:
        """Let the mixers run by themselves again."""
        self._calls = []

    def _chunk(self, tokens: slice, versions: Versions) -> _Call:
        source = None if versions.source is None else self._rows([versions.source])
        return _Call(tokens, source, self._rows([versions.target]), is_decode=False)

    def _decode(self, decoding: list[tuple[int, Versions]]) -> _Call:
        tokens, versions = zip(*decoding, strict=True)
        source = self._rows([v.source for v in versions if v.source is not None])
        target = self._rows([v.target for v in versions])
        return _Call(self._rows(list(tokens)), source, target, is_decode=True)

    def _rows(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._cache.device)

    def _take_over(self, mixer: Mixer) -> Callable[..., object]:
        own = mixer.module.forward
        tensors = {
            key: tensor
            for key, tensor in self._cache.tensors[mixer.layer].items()
            if mixer.keys is None or key in mixer.keys
        }

        @wraps(own)
        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> object:
            if not self._calls:
                return own(hidden_states, *args, **kwargs)
            parts = []
            for call in self._calls:
                state = LayerState(tensors, call.source)
                parts.append(mixer.run(call.pick(hidden_states), state))
                state.store(call.target)
            joined = (self._join(hidden_states, rows) for rows in zip(*parts, strict=True))
            return mixer.give(tuple(joined))

        return forward

    def _join(self, hidden: torch.Tensor, parts: Rows) -> torch.Tensor:
        """Put the rows of all calls, each [B, tokens, ...], into their places of [1, T, ...]."""
        whole = parts[0].new_empty(*hidden.shape[:2], *parts[0].shape[2:])
        for call, part in zip(self._calls, parts, strict=True):
            call.place(part, whole)
        return whole
