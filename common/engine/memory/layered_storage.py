"""Blocks of layers that differ: in their KV heads, in their channels, or in the sizes of keys and values."""

from collections.abc import Sequence

import torch

from common.engine.memory.block_storage import LayerStorage, Piece, find_slots, payload_pieces
from common.kv_transfer.layout import KVShape, count_numbers


class LayeredStorage:
    """Storages of layers alike, seen as one. A payload is flat: [numbers]. See BlockStorage."""

    def __init__(
        self, shapes: Sequence[KVShape], storages: dict[KVShape, LayerStorage], block_size: int
    ) -> None:
        """Take the shape of each layer, and for each shape the storage of its layers, in order."""
        self._shapes = shapes
        self._storages = storages
        self._block_size = block_size
        self._numbers_per_token = count_numbers(shapes)
        before = [shapes[:layer].count(shape) for layer, shape in enumerate(shapes)]
        self._places = [(storages[s], place) for s, place in zip(shapes, before, strict=True)]

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy layer by layer. See BlockStorage."""
        slots = find_slots(block_table, start, end, self._block_size)
        keys = next(iter(self._storages.values())).keys
        num_numbers = self._numbers_per_token * (end - start)
        payload = torch.empty(num_numbers, dtype=keys.dtype, device=keys.device)
        for storage, pieces in self._pieces(payload):
            storage.load(pieces, slots)
        return payload

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy layer by layer. See BlockStorage."""
        num_tokens = payload.numel() // self._numbers_per_token
        slots = find_slots(block_table, start, start + num_tokens, self._block_size)
        for storage, pieces in self._pieces(payload.contiguous()):
            storage.save(pieces, slots)

    def store(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Scatter by slot. See BlockStorage."""
        storage, place = self._places[layer]
        storage.store(place, slots, keys, values)

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy whole blocks. See BlockStorage."""
        storage, place = self._places[layer]
        return storage.gather(place, blocks)

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the memory of one layer. See BlockStorage."""
        storage, place = self._places[layer]
        return storage.pages(place)

    def _pieces(self, payload: torch.Tensor) -> list[tuple[LayerStorage, list[Piece]]]:
        """Split a payload into each storage's layers."""
        pieces = payload_pieces(payload, self._shapes)
        return [
            (
                storage,
                [piece for piece, own in zip(pieces, self._shapes, strict=True) if own == shape],
            )
            for shape, storage in self._storages.items()
        ]
