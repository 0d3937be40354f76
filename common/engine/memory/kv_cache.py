"""KV memory of one worker, and its exchange with the canonical wire layout."""

from collections.abc import Callable
from threading import Thread
from typing import Literal

import torch

from common.engine.device_copy import DeviceCopies
from common.engine.memory.block_memory import take_in_background
from common.engine.memory.block_storage import (
    BlockFormat,
    BlockStorage,
    LayerStorage,
    Piece,
    payload_parts,
    split_payload,
)
from common.engine.memory.layered_storage import LayeredStorage
from common.engine.memory.packed_storage import PackedStorage
from common.engine.memory.paged_storage import PagedStorage
from common.engine.memory.quantized_kv import LEVELS, WORD, QuantizedBlocks
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVLayout, KVShape, count_numbers, shape_of_all

Storage = Literal["packed", "pages"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BLOCK_DTYPES = DTYPES | dict.fromkeys(LEVELS, WORD)  # of ModelSpec.kv_dtype


class KVCache:
    """Keys and values of every layer, in blocks, in the model's dtype or quantized (quantized_kv.py).

    `blocks` decides how a block lies in memory. Layers of one shape lie in one storage (packed_storage.py,
    paged_storage.py); where there is more to tell, layered_storage.py joins them. The wire layout is
    KVLayout's.
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        storage: Storage = "packed",
    ) -> None:
        self.block_size, self.max_context_tokens = block_size, spec.max_context_tokens
        self.storage = storage
        self.dtype, self.kv_dtype = DTYPES[spec.dtype], spec.kv_dtype
        self.shapes, self.stored_shapes = spec.kv_shapes, spec.stored_kv_shapes
        self.places = spec.kv_places or tuple(range(len(self.shapes)))  # see ModelSpec
        is_even = not any(
            size % 2 for shape in self.stored_shapes for size in (block_size, *shape[1:])
        )
        kind = BLOCK_DTYPES[spec.kv_dtype]
        blocks = BlockFormat(num_blocks, block_size, kind, device, is_even)
        make = PackedStorage if storage == "packed" else PagedStorage
        self._storages: dict[KVShape, LayerStorage] = {
            shape: make(self.stored_shapes.count(shape), shape, blocks)
            for shape in dict.fromkeys(self.stored_shapes)
        }
        alike = shape_of_all(self.stored_shapes)
        self.blocks: BlockStorage = (
            LayeredStorage(self.stored_shapes, self._storages, block_size)
            if alike is None
            else self._storages[alike]
        )
        self.levels = LEVELS.get(spec.kv_quantization)  # None: blocks hold numbers
        if self.levels is not None:
            self.blocks = QuantizedBlocks(self.blocks, self.shapes, self.levels)
        first = self._storages[self.stored_shapes[0]]
        # of the first layer, and all of its shape
        self.keys, self.values = first.keys, first.values
        self._copies = DeviceCopies() if device.type == "cuda" else None

    @property
    def is_quantized(self) -> bool:
        """True where blocks hold words of 8-bit levels."""
        return self.levels is not None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All memory for blocks, each tensor [layers, blocks, ...]."""
        return tuple(kv for part in self._storages.values() for kv in part.tensors)

    def place_of(self, layer: int) -> tuple[LayerStorage, int]:
        """Return the storage that holds the KV of `shapes[layer]`, and its layer there."""
        shape = self.stored_shapes[layer]
        return self._storages[shape], self.stored_shapes[:layer].count(shape)

    def take_memory(self) -> Thread | None:
        """Have host memory taken from the system before it is used; return the thread that does it."""
        if self.keys.device.type != "cpu":
            return None
        return take_in_background(self.tensors)

    @property
    def reads_overlap(self) -> bool:
        """True where `start_read` returns before the copy is there."""
        return self._copies is not None

    @property
    def num_bytes(self) -> int:
        """Memory held: blocks x block bytes."""
        return sum(kv.nbytes for kv in self.tensors)

    @property
    def num_bytes_per_token(self) -> int:
        """Bytes of one position in blocks and in a payload, over all layers."""
        num_bytes: int = self.keys.dtype.itemsize * count_numbers(self.stored_shapes)
        return num_bytes

    @staticmethod
    def block_bytes(spec: ModelSpec, block_size: int) -> int:
        """Memory of one block over all layers."""
        return int(spec.kv_bytes_per_token(BLOCK_DTYPES[spec.kv_dtype].itemsize) * block_size)

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy positions [start, end) out, in the wire layout, on the host."""
        return self.blocks.read(block_table, start, end).to("cpu")

    def start_read(
        self, block_table: list[int], start: int, end: int
    ) -> Callable[[], torch.Tensor]:
        """Begin as `read`; the function returned waits for the copy, which may still run on a device.

        The blocks may be given back at once, since they are read before whatever runs later.
        """
        tensor = self.blocks.read(block_table, start, end)
        return (lambda: tensor) if self._copies is None else self._copies.start(tensor)

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy `payload` (wire layout, tokens from position `start`) into the sequence's blocks."""
        payload = payload.to(device=self.keys.device, dtype=self.keys.dtype)
        self.blocks.write(block_table, start, payload)

    def by_layer(self, payload: torch.Tensor) -> list[Piece]:
        """Return keys and values [tokens, kv_heads, dim] of each layer in a payload, as numbers."""
        pieces = split_payload(payload, self.stored_shapes)
        if self.levels is None:
            return pieces
        numbers = self.levels.dequantize
        return [
            (numbers(keys, shape.key_dim), numbers(values, shape.value_dim))
            for (keys, values), shape in zip(pieces, self.shapes, strict=True)
        ]

    def without_first(self, payload: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Return a payload's KV behind its first `num_tokens` positions; all, where that is 0."""
        if payload.dim() > 1 or not num_tokens:
            return payload[:, :, num_tokens:] if num_tokens else payload
        parts = payload_parts(payload, self.stored_shapes)
        return torch.cat([part[num_tokens:].reshape(-1) for part in parts])


def kv_layout(spec: ModelSpec) -> KVLayout:
    """Return the wire layout of a model's KV."""
    return KVLayout(
        fingerprint=spec.fingerprint,
        shapes=spec.stored_kv_shapes,
        dtype=spec.kv_dtype,
        bytes_per_element=BLOCK_DTYPES[spec.kv_dtype].itemsize,
        vocab_size=spec.vocab_size,
        state_bytes=0 if spec.state is None else spec.state.num_bytes,
        state_dtypes="" if spec.state is None else spec.state.dtypes,
    )
