"""The fast CPU backend: numba kernels over float32 blocks."""

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.attention.cpu_kernel import QUERY_TILE, attention_kernel, store
from common.engine.kv_cache import KVCache
from common.engine.ragged import RaggedInputs

Array = NDArray[np.float32]


class CpuBackend:
    """Needs float32 blocks in host memory; both worker roles use it.

    torch must be imported before numba starts its threads: both then find one libgomp and share its
    pool instead of fighting over the cores.
    """

    name = "cpu"

    def __init__(self, cache: KVCache) -> None:
        self._keys = cache.keys.numpy()
        self._values = cache.values.numpy()
        self._kernel = attention_kernel(cache.block_size, self._keys.shape[3])

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
        out = torch.empty(query.shape, dtype=torch.float32)
        self._kernel(
            _as_array(query),
            keys,
            values,
            out.numpy(),
            inputs.block_tables,
            inputs.query_start,
            inputs.context_len,
            self._items,
            np.float32(scale),
        )
        return out.to(query.dtype)


def _as_array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.to(torch.float32).contiguous().numpy()
    return array
