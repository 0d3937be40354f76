"""Weight of one layer as a quantized checkpoint stores it: several tensors that stand for a plain one."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from common.engine.weights.stored import StoredTensor

Parts = Mapping[str, torch.Tensor]
"""Stored tensors of one weight, by role: the end of the name that each has there."""

Rows = Callable[[int, int], torch.Tensor]
"""Function that gives the plain rows from a first one up to another, float32."""

Read = Callable[[str], torch.Tensor]
"""Function that reads a stored tensor by its name."""

_CHUNK_NUMBERS = 1 << 22  # as many at a time are held in float32
_WORD_ROWS = 8  # rows that may share a stored word, so that no chunk ends inside one


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """Plain weight `name` of `shape`, and the names of the stored tensors that it is made of."""

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]  # by role; the first one holds the numbers
    rows_of: Callable[[Parts], Rows]

    @property
    def main(self) -> str:
        """Name of the stored tensor that holds the numbers."""
        return next(iter(self.parts.values()))

    def dequantized(self, read: Read, dtype: torch.dtype) -> torch.Tensor:
        """Compute the plain weight in float32, and round it once to `dtype`.

        Only a few rows at a time are held in float32. Raises SetupError for parts that make no sense.
        """
        rows = self.rows_of({role: read(name) for role, name in self.parts.items()})
        weight = torch.empty(self.shape, dtype=dtype)
        at_a_time = max(_CHUNK_NUMBERS // math.prod(self.shape[1:]), 1)
        if weight.dim() == 2:
            at_a_time = -(-at_a_time // _WORD_ROWS) * _WORD_ROWS
        for first in range(0, len(weight), at_a_time):
            last = min(first + at_a_time, len(weight))
            weight[first:last] = rows(first, last)
        return weight


class Format(Protocol):
    """Way in which quantized weights are stored, with what the folder's settings say of it."""

    @property
    def told(self) -> str:
        """Name for the user: "AWQ 4-bit"."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Ends of names that only parts of quantized weights have."""

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights that are stored this way. Raises SetupError, naming it, for a broken one."""
