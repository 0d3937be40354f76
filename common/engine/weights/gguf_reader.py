"""GGUF files of one model, read once: the vocabulary of a large model takes seconds each time.

`transformers` opens the file for the configuration, for the weights and for the tokenizer, one element of an
array at a time. Within `shared` it gets the reader that is there already.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType

_Part = Any  # array of one field's bytes, as gguf has it


class QuickReader(GGUFReader):  # type: ignore[misc]  # gguf has no types
    """GGUFReader that reads arrays whole; its fields are the same."""

    num_tensors: tuple[int, ...] = ()  # of each part, where `tensors` are those of all

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[_Part], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return self._own_parts(orig_offs, raw_type)
        kind = self._get(orig_offs, np.uint32)
        length = self._get(orig_offs + 4, np.uint64)
        start, inner = orig_offs + 12, GGUFValueType(int(kind[0]))
        numbers = self.gguf_scalar_to_np.get(inner)
        if numbers is not None:
            values = self._get(start, numbers, int(length[0]))
            if len(values) != int(length[0]):
                raise ValueError("an array is cut short")
            parts = list(values.view(np.ndarray).reshape(-1, 1))
            indices, end = list(range(2, 2 + len(parts))), start + values.nbytes
        elif inner == GGUFValueType.STRING:
            parts, end = self._texts(start, int(length[0]))
            indices = list(range(3, 3 + len(parts), 2))
        else:
            return self._own_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, *([inner] if parts else [])]
        return end - orig_offs, [kind, length, *parts], indices, types

    def _own_parts(
        self, offset: int, kind: int
    ) -> tuple[int, list[_Part], list[int], list[GGUFValueType]]:
        size, parts, indices, types = super()._get_field_parts(offset, kind)
        return size, parts, indices, types

    def _texts(self, start: int, count: int) -> tuple[list[_Part], int]:
        """Return length and bytes of each of `count` texts, and the offset behind them."""
        data = self.data.view(np.ndarray)  # slices of the mapping itself cost ten times as much
        parts: list[_Part] = []
        for _ in range(count):
            length = data[start : start + 8].view(np.uint64)
            if self.byte_order == "S":
                length = length.view(length.dtype.newbyteorder("S"))
            end = start + 8 + int(length[0])
            parts += (length, data[start + 8 : end])
            start = end
        return parts, start


def open_parts(parts: Sequence[Path]) -> QuickReader:
    """Return a reader of the first part that has the tensors of all.

    Raises what gguf raises for a file that it cannot read: ValueError, IndexError, KeyError and others.
    """
    first, *others = (QuickReader(part) for part in parts)
    first.num_tensors = tuple(len(reader.tensors) for reader in (first, *others))
    for other in others:
        first.tensors.extend(other.tensors)
    return first


@contextmanager
def shared(reader: GGUFReader) -> Iterator[None]:
    """Give `reader` to whoever opens a GGUF file meanwhile; for one thread."""
    own = gguf.GGUFReader
    gguf.GGUFReader = lambda *_, **__: reader
    try:
        yield
    finally:
        gguf.GGUFReader = own
