"""Weights of a model that were laid out anew: kept, or taken from the model part by part."""

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Protocol, TypeVar

import torch
from torch import nn

Parts = TypeVar("Parts")

_MADV_DONTNEED = 4
_LEAST_BYTES = 2**16  # smaller ones are not worth a call


class Used(Protocol):
    """Receiver of the parameters that are read, and of what is made of them."""

    def take(self, parameter: nn.Parameter) -> None:
        """Note that a parameter is read."""

    def rows(self, rows: torch.Tensor) -> None:
        """Note that rows of a parameter are laid out, and read no more."""

    def parts(self, made: Parts) -> Parts:
        """Note what was made of all parameters that were read since the last call; return it."""


class Kept:
    """Parameters stay as they are."""

    def take(self, parameter: nn.Parameter) -> None:
        """Do nothing."""

    def rows(self, rows: torch.Tensor) -> None:
        """Do nothing."""

    def parts(self, made: Parts) -> Parts:
        """Return `made`."""
        return made


class Emptied:
    """Parameters lose their memory, but for those that are used as they were stored."""

    def __init__(self) -> None:
        self._taken: dict[int, nn.Parameter] = {}

    def take(self, parameter: nn.Parameter) -> None:
        """Note that a parameter is read."""
        self._taken[id(parameter)] = parameter

    def rows(self, rows: torch.Tensor) -> None:
        """Have the system take their memory."""
        _give_pages_back(rows)

    def parts(self, made: Parts) -> Parts:
        """Empty the parameters of which `made` does not hold the memory."""
        held = {tensor.untyped_storage().data_ptr() for tensor in _tensors(made)}
        for parameter in self._taken.values():
            if parameter.untyped_storage().data_ptr() not in held:
                _give_pages_back(parameter)
                parameter.data = parameter.new_empty(0)
        self._taken.clear()
        return made


def _tensors(made: object) -> Iterator[torch.Tensor]:
    """Yield all tensors of nested dataclasses and tuples."""
    if isinstance(made, torch.Tensor):
        yield made
    elif isinstance(made, tuple):
        for part in made:
            yield from _tensors(part)
    elif is_dataclass(made):
        for field in fields(made):
            yield from _tensors(getattr(made, field.name))


def _give_pages_back(tensor: torch.Tensor) -> None:
    """Have the system take a host tensor's pages; freed memory may else stay with the process.

    Nobody may read the tensor any more.
    """
    if tensor.device.type != "cpu" or tensor.nbytes < _LEAST_BYTES or not tensor.is_contiguous():
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    madvise(start, end - start, _MADV_DONTNEED)
