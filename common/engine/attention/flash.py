"""Attention on CUDA: FlashAttention (Dao 2023) over paged blocks, chunks and decode tokens in one call.

torch's own `varlen_attn` needs no package beside torch. Split-KV stays off: its order of sums depends on the
longest sequence of the batch, and a sequence's tokens must not depend on its neighbours.
"""

from collections.abc import Callable

import torch
from numpy.typing import NDArray
from torch.nn.attention.varlen import varlen_attn

from common.engine.kv_cache import KVCache
from common.engine.ragged import RaggedInputs

PAGE = 256  # FlashAttention 2 takes blocks of a multiple of it
_MOST_CHANNELS = 256

VarlenAttention = Callable[..., torch.Tensor]


class FlashBackend:
    """Needs a cache of pages that `fits`; `varlen` is torch's `varlen_attn` or has its contract."""

    name = "flash"

    def __init__(self, cache: KVCache, varlen: VarlenAttention = varlen_attn) -> None:
        self.kv_shape = (cache.num_kv_heads, cache.head_dim)
        self._cache = cache
        self._varlen = varlen

    @staticmethod
    def fits(cache: KVCache) -> bool:
        """Whether the kernel takes this cache's device, dtype and shape."""
        keys = cache.keys
        return (
            keys.device.type == "cuda"
            and keys.dtype in (torch.bfloat16, torch.float16)
            and cache.head_dim % 8 == 0
            and cache.head_dim <= _MOST_CHANNELS
            and cache.block_size % PAGE == 0
        )

    def begin(self, inputs: RaggedInputs) -> None:
        """Bring the step's batch layout to the device."""
        self._slots = self._to_device(inputs.slot_mapping)
        self._starts = self._to_device(inputs.query_start)
        self._contexts = self._to_device(inputs.context_len)
        self._tables = self._to_device(inputs.block_tables)
        counts = inputs.query_start[1:] - inputs.query_start[:-1]
        self._most = (int(counts.max()), int(inputs.context_len.max()))

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        """See AttentionBackend.attend."""
        self._cache.store(layer, self._slots, key, value)
        keys, values = self._cache.pages(layer)
        return self._varlen(
            query,
            keys,
            values,
            self._starts,
            None,
            *self._most,
            scale=scale,
            # the kernel counts positions before its own, we count its own too
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
            seqused_k=self._contexts,
            block_table=self._tables,
            num_splits=1,
        )

    def _to_device(self, numbers: NDArray) -> torch.Tensor:  # type: ignore[type-arg]
        tensor, device = torch.from_numpy(numbers), self._cache.keys.device
        if device.type != "cuda":
            return tensor
        # from pinned memory the copy runs beside the CPU
        return tensor.pin_memory().to(device, non_blocking=True)
