"""KV memory of one worker, and its exchange with the canonical wire layout."""

from collections.abc import Callable
from threading import Thread
from typing import Literal

import torch

from common.engine.device_copy import DeviceCopies
from common.engine.memory.block_memory import take_in_background
from common.engine.memory.block_storage import BlockStorage
from common.engine.memory.packed_storage import PackedStorage
from common.engine.memory.paged_storage import PagedStorage
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVLayout

Storage = Literal["packed", "pages"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class KVCache:
    """Keys and values of every layer, in blocks, in the model's dtype.

    `blocks` decides how a block lies in memory (packed_storage.py, paged_storage.py); its `keys` and `values`
    begin with [layers, blocks]. The wire layout is [layers, 2, tokens, kv_heads, head_dim].
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        storage: Storage = "packed",
    ) -> None:
        self.block_size = block_size
        self.num_kv_heads, self.head_dim = spec.num_kv_heads, spec.head_dim
        self.storage = storage
        make = PackedStorage if storage == "packed" else PagedStorage
        self.blocks: BlockStorage = make(spec, num_blocks, block_size, DTYPES[spec.dtype], device)
        self.keys, self.values = self.blocks.keys, self.blocks.values
        self._copies = DeviceCopies() if device.type == "cuda" else None

    def take_memory(self) -> Thread | None:
        """Have host memory taken from the system before it is used; return the thread that does it."""
        if self.keys.device.type != "cpu":
            return None
        return take_in_background((self.keys, self.values))

    @property
    def reads_overlap(self) -> bool:
        """True where `start_read` returns before the copy is there."""
        return self._copies is not None

    @property
    def num_bytes(self) -> int:
        """Memory held: blocks x block bytes."""
        num_bytes: int = self.keys.nbytes + self.values.nbytes
        return num_bytes

    @property
    def num_bytes_per_token(self) -> int:
        """Memory of one position over all layers."""
        num_bytes: int = self.keys[:, 0].nbytes + self.values[:, 0].nbytes
        return num_bytes // self.block_size

    @staticmethod
    def block_bytes(spec: ModelSpec, block_size: int) -> int:
        """Memory of one block over all layers."""
        return spec.kv_bytes_per_token(DTYPES[spec.dtype].itemsize) * block_size

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy positions [start, end) out: [layers, 2, end - start, kv_heads, head_dim] on the host."""
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


def kv_layout(spec: ModelSpec) -> KVLayout:
    """Return the wire layout of a model's KV."""
    return KVLayout(
        fingerprint=spec.fingerprint,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        dtype=spec.dtype,
        bytes_per_element=DTYPES[spec.dtype].itemsize,
        vocab_size=spec.vocab_size,
        state_bytes=0 if spec.state is None else spec.state.num_bytes,
        state_dtypes="" if spec.state is None else spec.state.dtypes,
    )
