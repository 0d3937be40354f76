"""The KV tensors, and their exchange with the canonical wire layout."""

import contextlib
import math
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.device_copy import DeviceCopies
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVLayout

if TYPE_CHECKING:
    from common.engine.cpu.kv_copy import PackedBlocks

Storage = Literal["packed", "pages"]
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class KVCache:
    """Keys and values of every layer, in blocks, in the model's dtype.

    `keys` is [layers, blocks, kv_heads, head_dim / pack, block_size, pack] and `values` is
    [layers, blocks, kv_heads, block_size / pack, head_dim, pack], where `pack` numbers fill 4 bytes: a
    score is then a sum over lanes of positions and an output one over lanes of channels, and a pair of
    two-byte numbers is what a CPU's dot-product instruction takes. In the other storage `pack` is 1 and both
    are views of [layers, blocks, block_size, kv_heads, head_dim], the pages that CUDA kernels take.

    The wire layout is canonical: [layers, 2, tokens, kv_heads, head_dim].
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        storage: Storage = "packed",
    ) -> None:
        dtype = DTYPES[spec.dtype]
        self.block_size, self.num_kv_heads, self.head_dim = (
            block_size,
            spec.num_kv_heads,
            spec.head_dim,
        )
        self.storage = storage
        is_packed = storage == "packed" and not block_size % 2 and not spec.head_dim % 2
        self._pack = pack = 4 // dtype.itemsize if is_packed else 1
        heads, dim = spec.num_kv_heads, spec.head_dim
        shapes = {
            "packed": (
                (heads, dim // pack, block_size, pack),
                (heads, block_size // pack, dim, pack),
            ),
            "pages": ((block_size, heads, dim), (block_size, heads, dim)),
        }[storage]
        keys, values = (
            _zeros((spec.num_layers, num_blocks, *shape), dtype, device) for shape in shapes
        )
        if storage == "pages":
            keys = keys.permute(0, 1, 3, 4, 2)[..., None]
            values = values.permute(0, 1, 3, 2, 4)[..., None]
        self.keys, self.values = keys, values
        self._words = _as_words(keys, values) if storage == "packed" else None
        self._copies = DeviceCopies() if device.type == "cuda" else None

    @property
    def reads_overlap(self) -> bool:
        """Whether `start_read` returns before the copy is there."""
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
        if self._words is not None:
            shape = (len(self.keys), 2, end - start, self.num_kv_heads, self.head_dim)
            # numpy asks for huge pages where torch would take one fault for every 4 KiB
            memory = np.empty(math.prod(shape) * self.keys.itemsize, np.uint8)
            wire = torch.from_numpy(memory).view(self.keys.dtype).view(shape)
            self._words.read(wire, self._slots(block_table, start, end))
            return wire
        return self._gather_wire(block_table, start, end).to("cpu")

    def start_read(
        self, block_table: list[int], start: int, end: int
    ) -> Callable[[], torch.Tensor]:
        """As `read`, but of a device's blocks the copy may still run: the function returned waits for it.

        The blocks may be given back at once, since they are read before whatever runs later.
        """
        if self._copies is None:
            tensor = self.read(block_table, start, end)
            return lambda: tensor
        return self._copies.start(self._gather_wire(block_table, start, end))

    def _gather_wire(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        first = start // self.block_size
        blocks = torch.tensor(block_table[first : -(-end // self.block_size)])
        blocks = blocks.to(self.keys.device)
        window = slice(start - first * self.block_size, end - first * self.block_size)
        keys = self.keys[:, blocks].permute(0, 1, 4, 2, 3, 5).flatten(4).flatten(1, 2)[:, window]
        values = self.values[:, blocks].permute(0, 1, 3, 5, 2, 4).flatten(1, 3)[:, window]
        return torch.stack((keys, values), dim=1)

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy `payload` (wire layout, tokens from position `start`) into the sequence's blocks.

        Whole blocks go in one indexed copy; only the two ragged edges are written slot by slot.
        """
        size, end = self.block_size, start + payload.shape[2]
        payload = payload.to(device=self.keys.device, dtype=self.keys.dtype)
        if self._words is not None:
            self._words.write(payload.contiguous(), self._slots(block_table, start, end))
            return
        whole_start, whole_end = min(-(-start // size) * size, end), end // size * size
        if whole_end > whole_start:
            blocks = torch.tensor(block_table[whole_start // size : whole_end // size])
            part = payload[:, :, whole_start - start : whole_end - start]
            part = part.unflatten(2, (-1, size))  # [layers, 2, blocks, size, kv_heads, head_dim]
            keys = part[:, 0].unflatten(4, (-1, self._pack))
            self.keys[:, blocks] = keys.permute(0, 1, 3, 4, 2, 5)
            values = part[:, 1].unflatten(2, (-1, self._pack))
            self.values[:, blocks] = values.permute(0, 1, 4, 2, 5, 3)
        for lo, hi in {(start, whole_start), (max(whole_end, whole_start), end)}:
            if hi > lo:
                part = payload[:, :, lo - start : hi - start]
                slots = block_table[lo // size] * size + torch.arange(
                    lo % size, lo % size + hi - lo
                )
                for layer in range(len(self.keys)):
                    self.store(layer, slots, part[layer, 0], part[layer, 1])

    def _slots(self, block_table: list[int], start: int, end: int) -> NDArray[np.int64]:
        positions = np.arange(start, end)
        blocks = np.array(block_table)[positions // self.block_size]
        slots: NDArray[np.int64] = blocks * self.block_size + positions % self.block_size
        return slots

    def store(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Scatter `keys` and `values` [T, kv_heads, head_dim] to slots [T] (block * size + offset)."""
        if self.storage == "pages":
            slots = slots.to(self.keys.device)
            for pages, new in zip(self.pages(layer), (keys, values), strict=True):
                pages.flatten(0, 1).index_copy_(0, slots, new.to(pages.dtype))
            return
        block, offset = slots // self.block_size, slots % self.block_size
        packed = keys.to(self.keys.dtype).unflatten(2, (-1, self._pack))
        self.keys[layer, block, :, :, offset] = packed
        row, lane = offset // self._pack, offset % self._pack
        self.values[layer, block, :, row, :, lane] = values.to(self.values.dtype)

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as views [blocks, block_size, kv_heads, head_dim] of storage "pages"."""
        if self.storage != "pages":
            raise ValueError("packed blocks are no pages")
        keys, values = self.keys[layer, ..., 0], self.values[layer, ..., 0]
        return keys.permute(0, 3, 1, 2), values.permute(0, 2, 1, 3)

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of whole blocks in order: two of [kv_heads, blocks * size, head_dim]."""
        keys = self.keys[layer, blocks].permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        values = self.values[layer, blocks].permute(1, 0, 2, 4, 3).flatten(1, 3)
        return keys, values


def _as_words(keys: torch.Tensor, values: torch.Tensor) -> "PackedBlocks | None":
    """The blocks for quick copies: in host memory, where numbers or pairs of them fill 4 bytes."""
    if keys.device.type != "cpu" or keys.shape[-1] * keys.itemsize != 4:
        return None
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.kv_copy import PackedBlocks

    return PackedBlocks(keys, values)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeroed memory; on the host in huge pages where the kernel grants them, all taken from the system now.

    Blocks lie scattered: with small pages a decode step spends more time on address translation than on
    keys and values. A page that is first written when KV arrives would hold a decode step up: in a virtual
    machine a fault may take 12 us, which made an insert of 512 tokens cost 50 ms where it takes 6.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    # private: the kernel has no huge pages for shared memory unless told so for the whole system
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in (getattr(mmap, "MADV_HUGEPAGE", None), _MADV_POPULATE_WRITE):
        with contextlib.suppress(OSError):  # a kernel that does not know it
            if advice is not None:
                memory.madvise(advice)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def kv_layout(spec: ModelSpec) -> KVLayout:
    """The wire layout of a model's KV."""
    return KVLayout(
        fingerprint=spec.fingerprint,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        dtype=spec.dtype,
        bytes_per_element=DTYPES[spec.dtype].itemsize,
        vocab_size=spec.vocab_size,
    )
