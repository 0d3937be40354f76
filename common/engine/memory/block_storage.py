"""Seam between KVCache and the two layouts that blocks may have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from common.kv_transfer.layout import KVShape

Piece = tuple[torch.Tensor, torch.Tensor]  # keys [tokens, kv_heads, key_dim], values likewise


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Number, size, dtype and device of a cache's blocks; `is_paired`: two-byte numbers lie in pairs."""

    num_blocks: int
    block_size: int
    dtype: torch.dtype
    device: torch.device
    is_paired: bool


class BlockStorage(Protocol):
    """Memory for all blocks of all layers in one layout. Chosen once, when the cache is built.

    The wire layout is KVLayout's: [layers, 2, tokens, kv_heads, head_dim] where all layers are alike.
    """

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


class LayerStorage(BlockStorage, Protocol):
    """Storage of layers that have one shape.

    `keys` and `values` begin with [layers, blocks]; what follows is the layout's own. `tensors` are those of
    both that have memory of their own. `read` and `write` are for keys and values of one size. Pieces have
    what KVShape says is held: of latents, values with no channels.
    """

    keys: torch.Tensor
    values: torch.Tensor
    tensors: tuple[torch.Tensor, ...]

    def load(self, pieces: Sequence[Piece], slots: NDArray[np.int64]) -> None:
        """Fill the pieces, one a layer, from the slots [tokens]. They are contiguous."""

    def save(self, pieces: Sequence[Piece], slots: NDArray[np.int64]) -> None:
        """Copy the pieces, one a layer, to the slots [tokens]. They are contiguous."""


def find_slots(block_table: list[int], start: int, end: int, block_size: int) -> NDArray[np.int64]:
    """Return the slots (block * size + offset) of positions [start, end)."""
    positions = np.arange(start, end)
    blocks = np.array(block_table)[positions // block_size]
    slots: NDArray[np.int64] = blocks * block_size + positions % block_size
    return slots


def payload_parts(payload: torch.Tensor, shapes: Sequence[KVShape]) -> list[torch.Tensor]:
    """View the parts [tokens, kv_heads, dim] of a payload in the wire layout, in their order.

    Two a layer, keys and values. Those of latents have no channels.
    """
    sizes = [(shape.num_kv_heads, dim) for shape in shapes for dim in shape.held]
    num_tokens = payload.numel() // sum(heads * dim for heads, dim in sizes)
    flat = payload.reshape(-1).split([num_tokens * heads * dim for heads, dim in sizes])
    return [part.view(num_tokens, *size) for part, size in zip(flat, sizes, strict=True)]


def payload_pieces(payload: torch.Tensor, shapes: Sequence[KVShape]) -> list[Piece]:
    """View what a payload in the wire layout holds of each layer's keys and values."""
    parts = payload_parts(payload, shapes)
    return list(zip(parts[::2], parts[1::2], strict=True))


def split_payload(payload: torch.Tensor, shapes: Sequence[KVShape]) -> list[Piece]:
    """View the keys and values of each layer in a payload in the wire layout."""
    pieces = zip(shapes, payload_pieces(payload, shapes), strict=True)
    return [(keys, own_values(shape, keys, values)) for shape, (keys, values) in pieces]


def own_values(shape: KVShape, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `values` [..., those held], or those that lie in `keys` [..., key_dim]."""
    return values if shape.held[1] else keys[..., : shape.value_dim]
