"""Blocks as the CPU's kernels read them: words of 4 bytes, those of a vector side by side."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.memory.block_memory import zeros
from common.engine.memory.block_storage import BlockFormat, Piece, find_slots, own_values
from common.kv_transfer.layout import KVShape

if TYPE_CHECKING:
    from common.engine.cpu.kv_copy import PackedBlocks


class PackedStorage:
    """Keys lie in lanes of positions, values in lanes of channels. See LayerStorage.

    `keys` is [layers, blocks, kv_heads, key_dim / pack, block_size, pack] and `values` is [layers, blocks,
    kv_heads, block_size / pack, value_dim, pack], where `pack` numbers fill 4 bytes. A score is then a sum
    over lanes of positions, an output a sum over lanes of channels. A CPU's dot-product instruction takes
    pairs of two-byte numbers; where a size is odd they make no pairs, and `pack` is 1. Latents are held
    once: `values` has no channels then, and the attention kernel makes values of keys.
    """

    def __init__(self, num_layers: int, shape: KVShape, blocks: BlockFormat) -> None:
        self._block_size = size = blocks.block_size
        self._shape = shape
        self._pack = pack = 4 // blocks.dtype.itemsize if blocks.is_paired else 1
        heads = (num_layers, blocks.num_blocks, shape.num_kv_heads)
        kind = blocks.dtype, blocks.device
        key_dim, value_dim = shape.held
        self.keys = zeros((*heads, key_dim // pack, size, pack), *kind)
        self.values = zeros((*heads, size // pack, value_dim, pack), *kind)
        self.tensors = (self.keys, self.values) if value_dim else (self.keys,)
        self._words = _as_words(self.keys, self.values)

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy word by word, on all cores. See LayerStorage."""
        slots = find_slots(block_table, start, end, self._block_size)
        if self._words is None:
            pair = self._gather_slots(torch.from_numpy(slots), slice(None))
            return torch.stack(pair).permute(2, 0, 1, 3, 4).contiguous()
        layers, _, heads, channels, _, pack = self.keys.shape
        shape = (layers, 2, end - start, heads, channels * pack)
        # numpy asks for huge pages where torch would take one fault for every 4 KiB
        memory = np.empty(math.prod(shape) * self.keys.itemsize, np.uint8)
        wire = torch.from_numpy(memory).view(self.keys.dtype).view(shape)
        self._words.read(wire, slots)
        return wire

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy word by word, on all cores. See LayerStorage."""
        slots = find_slots(block_table, start, start + payload.shape[2], self._block_size)
        if self._words is not None:
            self._words.write(payload.contiguous(), slots)
            return
        for layer, (keys, values) in enumerate(payload):
            self.store(layer, torch.from_numpy(slots), keys, values)

    def store(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Scatter by slot; the reference backend's way, a step's kernels have KVStore."""
        block, offset = slots // self._block_size, slots % self._block_size
        packed = keys.to(self.keys.dtype).unflatten(2, (-1, self._pack))
        self.keys[layer, block, :, :, offset] = packed
        row, lane = offset // self._pack, offset % self._pack
        held = values[..., : self._shape.held[1]].to(self.values.dtype)
        self.values[layer, block, :, row, :, lane] = held

    def load(self, pieces: Sequence[Piece], slots: NDArray[np.int64]) -> None:
        """Copy word by word where possible. See LayerStorage."""
        for layer, (keys, values) in enumerate(pieces):
            if self._words is not None:
                self._words.read_layer(layer, keys, values, slots)
                continue
            found = self._gather_slots(torch.from_numpy(slots), slice(layer, layer + 1))
            for piece, kv in zip((keys, values), found, strict=True):
                piece.copy_(kv[:, 0])

    def save(self, pieces: Sequence[Piece], slots: NDArray[np.int64]) -> None:
        """Copy word by word where possible. See LayerStorage."""
        if self._words is not None:
            self._words.write_layers(pieces, slots)
            return
        for layer, (keys, values) in enumerate(pieces):
            self.store(layer, torch.from_numpy(slots), keys, values)

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the channels last. See LayerStorage."""
        keys = self.keys[layer, blocks].permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        values = self.values[layer, blocks].permute(1, 0, 2, 4, 3).flatten(1, 3)
        return keys, own_values(self._shape, keys, values)

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise ValueError: no page lies in memory."""
        raise ValueError("packed blocks are no pages")

    def _gather_slots(self, slots: torch.Tensor, layers: slice) -> Piece:
        """Return keys and values [tokens, layers, kv_heads, dim] of some layers."""
        block, offset = slots // self._block_size, slots % self._block_size
        row, lane = offset // self._pack, offset % self._pack
        keys = self.keys[layers, block, :, :, offset].flatten(3)
        return keys, self.values[layers, block, :, row, :, lane]


def _as_words(keys: torch.Tensor, values: torch.Tensor) -> "PackedBlocks | None":
    """View the blocks for quick copies: in host memory, where numbers or pairs of them fill 4 bytes."""
    if keys.device.type != "cpu" or keys.shape[-1] * keys.itemsize != 4:
        return None
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.kv_copy import PackedBlocks

    return PackedBlocks(keys, values)
