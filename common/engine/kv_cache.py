"""The KV tensors, and their exchange with the canonical wire layout."""

import torch

from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVLayout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class KVCache:
    """Keys and values of every layer, in blocks.

    `keys` is [layers, blocks, kv_heads, head_dim, block_size] and `values` is
    [layers, blocks, kv_heads, block_size, head_dim]: a score is then a sum over contiguous positions
    and an output a sum over contiguous channels, which is what vector units want. Blocks hold
    the model's dtype, on the wire too, whose layout is canonical: [layers, 2, tokens, kv_heads, head_dim].
    """

    def __init__(
        self, spec: ModelSpec, num_blocks: int, block_size: int, device: torch.device
    ) -> None:
        storage = DTYPES[spec.dtype]
        shape = (spec.num_layers, num_blocks, spec.num_kv_heads)
        self.block_size = block_size
        self.keys = torch.zeros(*shape, spec.head_dim, block_size, dtype=storage, device=device)
        self.values = torch.zeros(*shape, block_size, spec.head_dim, dtype=storage, device=device)

    @property
    def num_bytes(self) -> int:
        """Memory held: blocks x block bytes."""
        num_bytes: int = self.keys.nbytes + self.values.nbytes
        return num_bytes

    @staticmethod
    def block_bytes(spec: ModelSpec, block_size: int) -> int:
        """Memory of one block over all layers."""
        return spec.kv_bytes_per_token(DTYPES[spec.dtype].itemsize) * block_size

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy positions [start, end) out: [layers, 2, end - start, kv_heads, head_dim] on the host."""
        first = start // self.block_size
        blocks = torch.tensor(block_table[first : -(-end // self.block_size)])
        blocks = blocks.to(self.keys.device)
        window = slice(start - first * self.block_size, end - first * self.block_size)
        keys = self.keys[:, blocks].permute(0, 1, 4, 2, 3).flatten(1, 2)[:, window]
        values = self.values[:, blocks].permute(0, 1, 3, 2, 4).flatten(1, 2)[:, window]
        return torch.stack((keys, values), dim=1).to("cpu")

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy `payload` (wire layout, tokens from position `start`) into the sequence's blocks.

        Whole blocks go in one indexed copy; only the two ragged edges are written slice by slice.
        """
        size, end = self.block_size, start + payload.shape[2]
        payload = payload.to(device=self.keys.device, dtype=self.keys.dtype)
        whole_start, whole_end = min(-(-start // size) * size, end), end // size * size
        if whole_end > whole_start:
            blocks = torch.tensor(block_table[whole_start // size : whole_end // size])
            part = payload[:, :, whole_start - start : whole_end - start]
            part = part.unflatten(2, (-1, size))  # [layers, 2, blocks, size, kv_heads, head_dim]
            self.keys[:, blocks] = part[:, 0].permute(0, 1, 3, 4, 2)
            self.values[:, blocks] = part[:, 1].permute(0, 1, 3, 2, 4)
        edges = {(start, whole_start), (max(whole_end, whole_start), end)}
        for lo, hi in edges:
            if hi > lo:
                self._write_edge(
                    block_table[lo // size], lo, payload[:, :, lo - start : hi - start]
                )

    def _write_edge(self, block_id: int, position: int, part: torch.Tensor) -> None:
        offset = position % self.block_size
        window = slice(offset, offset + part.shape[2])
        self.keys[:, block_id, :, :, window] = part[:, 0].permute(0, 2, 3, 1)
        self.values[:, block_id, :, window] = part[:, 1].permute(0, 2, 1, 3)


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
