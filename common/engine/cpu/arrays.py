"""Tensors seen as the arrays that kernels take."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Words = NDArray[np.uint32]
_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def as_array(tensor: torch.Tensor) -> Array:
    """Share the tensor's memory with numpy.

    bfloat16, which numpy lacks, is seen as uint16; float16, which numba lacks on a CPU, as int16.
    """
    bits = _BITS.get(tensor.dtype)
    array: Array = (tensor if bits is None else tensor.view(bits)).numpy()
    return array


def as_words(tensor: torch.Tensor) -> Words:
    """Share a contiguous tensor's memory as 32-bit words: [n]."""
    words: Words = as_array(tensor).reshape(-1).view(np.uint32)
    return words
