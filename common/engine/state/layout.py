"""Shape of a sequence's state: a fixed number of bytes, however long the sequence is. No tensors here."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

_ALIGNMENT = 16  # bytes; each tensor begins at a multiple, and so does each sequence's state

Key = tuple[str, int]  # "conv" or "recurrent", and the `state_idx` of `transformers`


@dataclass(frozen=True, slots=True)
class StatePart:
    """One tensor of one layer's state, for one sequence."""

    layer: int  # its number in the model
    key: Key
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Tensors of one sequence's state, as they lie side by side in memory and on the wire."""

    parts: tuple[StatePart, ...]

    @property
    def layers(self) -> frozenset[int]:
        """Numbers in the model of the layers that hold state."""
        return frozenset(part.layer for part in self.parts)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First byte of each part."""
        return tuple(self._ends())[:-1]

    @property
    def num_bytes(self) -> int:
        """Bytes of one sequence's state, padding included."""
        return tuple(self._ends())[-1]

    @property
    def dtypes(self) -> str:
        """Dtypes of the parts, each once, in alphabetical order."""
        return ",".join(sorted({part.dtype for part in self.parts}))

    def _ends(self) -> Iterable[int]:
        sizes = (-(-part.num_bytes // _ALIGNMENT) * _ALIGNMENT for part in self.parts)
        return accumulate(sizes, initial=0)
