"""Weight of one layer as a quantized checkpoint stores it: several tensors that stand for a plain one."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from common.engine.weights.prequantized.integers import GroupedIntegers, Rows
from common.engine.weights.stored import StoredTensor

Parts = Mapping[str, torch.Tensor]
"""Stored tensors of one weight, by role: the end of the name that each has there."""

Read = Callable[[str], torch.Tensor]
"""Function that reads a stored tensor by its name."""

_CHUNK_NUMBERS = 1 << 18  # as many at a time are held in float32: they fit into a cache
_WORD_ROWS = 8  # rows that may share a stored word, so that no chunk ends inside one


@dataclass(frozen=True, slots=True)
class IntegerForm:
    """Form of a matrix of integers: the bits of a level, and the groups of a row, all of one size."""

    bits: Literal[4, 8]
    num_groups: int
    is_centred: bool  # all zero points are in the middle, by the settings
    has_wide_scales: bool  # in float32


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """Plain weight `name` of `shape`, and the names of the stored tensors that it is made of."""

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]  # by role; the first one holds the numbers
    numbers_of: Callable[[Parts], Rows | GroupedIntegers]
    form: IntegerForm | None = None  # None: no integers, or in groups of no order

    @property
    def main(self) -> str:
        """Name of the stored tensor that holds the numbers."""
        return next(iter(self.parts.values()))

    def numbers(self, read: Read) -> Rows | GroupedIntegers:
        """Read the parts. Raises SetupError for parts that make no sense."""
        return self.numbers_of({role: read(name) for role, name in self.parts.items()})

    def dequantized(self, read: Read, dtype: torch.dtype) -> torch.Tensor:
        """Compute the plain weight in float32, and round it once to `dtype`.

        Only a few rows at a time are held in float32. Raises SetupError for parts that make no sense.
        """
        numbers = self.numbers(read)
        rows = numbers.rows if isinstance(numbers, GroupedIntegers) else numbers
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
