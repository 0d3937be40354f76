"""Blocks as pages, each position's numbers side by side: what CUDA kernels and plain torch read.

Latents are held once: values are views of the first channels of their keys.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.memory.block_memory import zeros
from common.engine.memory.block_storage import BlockFormat, Piece
from common.kv_transfer.layout import KVShape, LatentShape


class PagedStorage:
    """`keys` and `values` [layers, blocks, block_size, kv_heads, their channels]. See LayerStorage."""

    def __init__(self, num_layers: int, shape: KVShape, blocks: BlockFormat) -> None:
        self._block_size = blocks.block_size
        pages = (num_layers, blocks.num_blocks, blocks.block_size, shape.num_kv_heads)
        kind = blocks.dtype, blocks.device
        self.keys = zeros((*pages, shape.key_dim), *kind)
        if isinstance(shape, LatentShape):
            self.tensors: tuple[torch.Tensor, ...] = (self.keys,)
            self.values = self.keys[..., : shape.value_dim]
        else:
            self.values = zeros((*pages, shape.value_dim), *kind)
            self.tensors = self.keys, self.values

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Gather the blocks whole, then cut the window out of them."""
        first = start // self._block_size
        blocks = torch.tensor(block_table[first : -(-end // self._block_size)])
        blocks = blocks.to(self.keys.device)
        window = slice(start - first * self._block_size, end - first * self._block_size)
        parts = (kv[:, blocks].flatten(1, 2)[:, window] for kv in (self.keys, self.values))
        return torch.stack(tuple(parts), dim=1)

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Write whole blocks in one indexed copy, the two ragged edges each in one of their own."""
        size, end = self._block_size, start + payload.shape[2]
        whole_start, whole_end = min(-(-start // size) * size, end), end // size * size
        if whole_end > whole_start:
            blocks = torch.tensor(block_table[whole_start // size : whole_end // size])
            part = payload[:, :, whole_start - start : whole_end - start]
            part = part.unflatten(2, (-1, size))  # [layers, 2, blocks, size, kv_heads, head_dim]
            self.keys[:, blocks], self.values[:, blocks] = part[:, 0], part[:, 1]
        for low, high in {(start, whole_start), (max(whole_end, whole_start), end)}:
            if high > low:
                block, offset = block_table[low // size], low % size
                edge = slice(offset, offset + high - low)
                part = payload[:, :, low - start : high - start]
                self.keys[:, block, edge], self.values[:, block, edge] = part[:, 0], part[:, 1]

    def store(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Scatter by slot. See LayerStorage."""
        slots = slots.to(self.keys.device)
        for pages, new in zip(self.tensors, (keys, values), strict=False):
            pages[layer].flatten(0, 1).index_copy_(0, slots, new.to(pages.dtype))

    def load(self, pieces: Sequence[Piece], slots: NDArray[np.int64]) -> None:
        """Gather by slot. See LayerStorage."""
        rows = torch.from_numpy(slots).to(self.keys.device)
        for layer, piece in enumerate(pieces):
            for part, pages in zip(piece, self.tensors, strict=False):
                part.copy_(pages[layer].flatten(0, 1)[rows])

    def save(self, pieces: Sequence[Piece], slots: NDArray[np.int64]) -> None:
        """Scatter by slot. See LayerStorage."""
        rows = torch.from_numpy(slots).to(self.keys.device)
        for layer, (keys, values) in enumerate(pieces):
            self.store(layer, rows, keys, values)

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the heads first. See LayerStorage."""
        keys, values = (kv[layer, blocks].flatten(0, 1) for kv in (self.keys, self.values))
        return keys.transpose(0, 1), values.transpose(0, 1)

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the memory itself. See LayerStorage."""
        return self.keys[layer], self.values[layer]
