"""Memory of all sequences' states.

A slot has two versions: a step reads the one and writes the other. So a step that raised, or whose result was
lost, runs again from what it read (isolation.py). KV needs no such care: it is stored at its position again.
"""

from dataclasses import dataclass

import torch

from common.engine.state.layout import Key, StateLayout

_NOTHING = -1  # position of a version that holds no state


class StateError(RuntimeError):
    """Raised for a state that a slot does not hold: a bug of ours, or a sequence that lost its state."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Rows of the memory for one sequence in one step; `source` is None at position 0, before any state."""

    source: int | None
    target: int


class StateCache:
    """States of `num_slots` sequences, two versions each, and of one scratch slot.

    `tensors` gives each layer's states by kind, each [rows, *shape]: views of one memory, in which the
    bytes of a version lie side by side. So a state is read and written whole, without a copy for each layer.
    """

    def __init__(self, layout: StateLayout, num_slots: int, device: torch.device) -> None:
        self.layout = layout
        self._scratch = num_slots
        size = (2 * (num_slots + 1), layout.num_bytes)
        # not zeroed: a CPU takes pages when they are first written, and nothing is read before
        self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        self._memory[2 * self._scratch :] = 0
        self._positions = [_NOTHING] * len(self._memory)  # of each row: the tokens that it has seen
        self.tensors: dict[int, dict[Key, torch.Tensor]] = {layer: {} for layer in layout.layers}
        for part, start in zip(layout.parts, layout.offsets, strict=True):
            flat = self._memory[:, start : start + part.num_bytes].view(getattr(torch, part.dtype))
            self.tensors[part.layer][part.key] = flat.unflatten(1, part.shape)

    @staticmethod
    def bytes_for(layout: StateLayout, num_slots: int) -> int:
        """Return the memory of a cache."""
        return 2 * (num_slots + 1) * layout.num_bytes

    @staticmethod
    def slots_in(layout: StateLayout, num_bytes: int) -> int:
        """Return the number of slots of the largest cache that this memory holds."""
        return num_bytes // (2 * layout.num_bytes) - 1

    @property
    def device(self) -> torch.device:
        """Device of the memory."""
        return self._memory.device

    def begin(self, slot: int | None, position: int) -> Versions:
        """Return the rows for a step of the sequence in `slot` from `position` on; its target is void now.

        Without a slot the content does not matter: such a sequence measures time, or nobody wants its
        tokens. Raises StateError where the slot has no state of this position.
        """
        if slot is None:
            target = 2 * self._scratch
            return Versions(target + 1 if position else None, target)
        first = 2 * slot
        if position == 0:
            self._positions[first] = self._positions[first + 1] = _NOTHING
            return Versions(None, first)
        source = self._row(slot, position)
        self._positions[source ^ 1] = _NOTHING
        return Versions(source, source ^ 1)

    def commit(self, versions: Versions, position: int) -> None:
        """Note that a step has written the state of `position` into its target."""
        self._positions[versions.target] = position

    def read(self, slot: int, position: int) -> torch.Tensor:
        """Copy a state out: [layout.num_bytes] uint8 on the host. Raises StateError."""
        return self._memory[self._row(slot, position)].to("cpu", copy=True)

    def parts(self, state: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors of a state that `read` returned, in the order of the layout."""
        spans = zip(self.layout.parts, self.layout.offsets, strict=True)
        return [
            state[start : start + part.num_bytes].view(getattr(torch, part.dtype)).view(part.shape)
            for part, start in spans
        ]

    def write(self, slot: int, start: int, piece: torch.Tensor) -> None:
        """Copy bytes of a state in, from byte `start` on. The slot holds nothing until `complete`."""
        first = 2 * slot
        self._positions[first] = self._positions[first + 1] = _NOTHING
        self._memory[first, start : start + len(piece)] = piece.to(self._memory.device)

    def complete(self, slot: int, position: int) -> None:
        """Note that all bytes of the state of `position` were written."""
        self._positions[2 * slot] = position

    def _row(self, slot: int, position: int) -> int:
        for row in (2 * slot, 2 * slot + 1):
            if self._positions[row] == position:
                return row
        held = self._positions[2 * slot : 2 * slot + 2]
        raise StateError(f"slot {slot} holds states of positions {held}, not of {position}")
