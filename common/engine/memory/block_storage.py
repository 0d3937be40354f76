"""Seam between KVCache and the two layouts that blocks may have."""

from typing import Protocol

import torch


class BlockStorage(Protocol):
    """Memory for all blocks of all layers in one layout. Chosen once, when the cache is built.

    `keys` and `values` begin with [layers, blocks]; what follows is the layout's own. The wire layout is
    [layers, 2, tokens, kv_heads, head_dim].
    """

    keys: torch.Tensor
    values: torch.Tensor

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy positions [start, end) out in the wire layout, on the device of the blocks."""

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy `payload` (wire layout, device and dtype of the blocks) in, from position `start` on."""

    def store(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Scatter `keys` and `values` [T, kv_heads, head_dim] to slots [T] (block * size + offset)."""

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy keys and values of whole blocks in order: two of [kv_heads, blocks * size, head_dim]."""

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [blocks, block_size, kv_heads, head_dim]. Raises ValueError where there are none."""
