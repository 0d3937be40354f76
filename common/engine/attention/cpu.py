"""The fast CPU backend: numba kernels over blocks in the model's dtype, arithmetic in float32."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.attention.cpu_kernel import QUERY_TILE, attention_kernel, kernel_fits, store
from common.engine.kv_cache import KVCache
from common.engine.ragged import RaggedInputs

Array = NDArray[Any]


class CpuBackend:
    """Needs blocks in host memory, of a shape that `fits`; both worker roles use it.

    torch must be imported before numba starts its threads: both then find one libgomp and share its
    pool instead of fighting over the cores.
    """

    name = "cpu"

    def __init__(self, cache: KVCache, num_heads: int) -> None:
        self._keys, self._values = _as_array(cache.keys), _as_array(cache.values)
        kv_heads, head_dim = self._keys.shape[2:4]
        self._kernel = attention_kernel(cache.block_size, head_dim, num_heads // kv_heads)

    @staticmethod
    def fits(cache: KVCache) -> bool:
        """Whether the kernel's vectors tile this cache's blocks."""
        return kernel_fits(cache.block_size, cache.keys.shape[3])

    def begin(self, inputs: RaggedInputs) -> None:
        """Cut every sequence's queries into tiles, the kernel's work items."""
        self._inputs = inputs
        counts = np.diff(inputs.query_start)
        items = [
            (seq, first, min(first + QUERY_TILE, count))
            for seq, count in enumerate(counts.tolist())
            for first in range(0, count, QUERY_TILE)
        ]
        self._items = np.array(items, dtype=np.int32)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """See AttentionBackend.attend."""
        inputs = self._inputs
        keys, values = self._keys[layer], self._values[layer]
        store(_as_array(key), _as_array(value), keys, values, inputs.slot_mapping)
        out = torch.empty(query.shape, dtype=query.dtype)
        self._kernel(
            _as_array(query),
            keys,
            values,
            _as_array(out),
            inputs.block_tables,
            inputs.query_start,
            inputs.context_len,
            self._items,
            np.float32(scale),
        )
        return out


def _as_array(tensor: torch.Tensor) -> Array:
    """Share the tensor's memory with numpy, which has no bfloat16: its bits go as uint16."""
    tensor = tensor.contiguous()
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    array: Array = bits.numpy()
    return array
