"""Floats of 4 bits, E2M1, and scales that are powers of two: the OCP Microscaling Specification."""

from functools import cache

import torch

_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # the highest bit is the sign
_BIAS = 127  # of the exponent


def unpacked_pairs(stored: torch.Tensor) -> torch.Tensor:
    """Return the float32 numbers [..., 2 n] in bytes [..., n], of each the low bits first."""
    return _pairs().index_select(0, stored.flatten().int()).view(*stored.shape[:-1], -1)


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """Return the float32 scales of biased exponents, uint8."""
    return _powers()[exponents.int()]


@cache
def _pairs() -> torch.Tensor:
    numbers = torch.tensor((*_POSITIVE, *(-number for number in _POSITIVE)))
    byte = torch.arange(256)
    return torch.stack((numbers[byte & 15], numbers[byte >> 4]), dim=-1)


@cache
def _powers() -> torch.Tensor:
    return torch.ldexp(torch.ones(256), torch.arange(256) - _BIAS)
