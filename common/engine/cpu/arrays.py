"""Tensors as the arrays that the kernels take."""

from typing import Any

import torch
from numpy.typing import NDArray

Array = NDArray[Any]


def as_array(tensor: torch.Tensor) -> Array:
    """Share the tensor's memory with numpy, which has no bfloat16: its bits go as uint16."""
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    array: Array = bits.numpy()
    return array
