"""Copies between the wire layout and packed blocks in host memory."""

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.cpu import kv_copy_kernel
from common.engine.cpu.arrays import Words, as_words


class PackedBlocks:
    """Blocks of a PackedStorage whose packed numbers fill words of 4 bytes, seen as words."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """`keys` and `values` as PackedStorage describes them, contiguous."""
        layers, blocks, heads = keys.shape[:3]
        self._pack = keys.shape[-1]
        self._words = keys.shape[3]  # of one token and head
        self._keys, self._values = (
            as_words(x).reshape(layers, blocks, heads, -1) for x in (keys, values)
        )

    def write(self, wire: torch.Tensor, slots: NDArray[np.int64]) -> None:
        """Copy `wire` [layers, 2, tokens, kv_heads, head_dim] to the slots (block * size + offset)."""
        kv_copy_kernel.write_blocks(
            self._wire_words(wire), self._keys, self._values, slots, self._pack
        )

    def read(self, wire: torch.Tensor, slots: NDArray[np.int64]) -> None:
        """Fill `wire` [layers, 2, tokens, kv_heads, head_dim] from the slots."""
        kv_copy_kernel.read_blocks(
            self._wire_words(wire), self._keys, self._values, slots, self._pack
        )

    def _wire_words(self, wire: torch.Tensor) -> Words:
        return as_words(wire).reshape(*wire.shape[:4], self._words)
