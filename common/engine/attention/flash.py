"""Attention on CUDA: FlashAttention (Dao 2023) over paged blocks, chunks and decode tokens in one call.

torch's own `varlen_attn` needs no package beside torch. Split-KV stays off: its order of sums depends on the
longest sequence of the batch, and a sequence's tokens must not depend on its neighbours.
"""

from collections.abc import Callable

import torch

from common.engine.attention.form import AttentionForm, UnsupportedAttentionError
from common.engine.device_inputs import StepTensors
from common.engine.memory.kv_cache import KVCache

PAGE = 256  # FlashAttention 2 takes blocks of a multiple of it
_MOST_CHANNELS = 256

VarlenAttention = Callable[..., torch.Tensor]


class FlashBackend:
    """Attention over pages on a GPU (see `can_read`); `varlen` acts like torch's `varlen_attn`."""

    name = "flash"

    def __init__(self, cache: KVCache, varlen: VarlenAttention | None = None) -> None:
        self.kv_shapes, self.kv_places = cache.shapes, cache.places
        self._blocks = cache.blocks
        self._varlen = varlen or _torch_varlen()

    @staticmethod
    def can_read(cache: KVCache) -> bool:
        """Return True if the kernel takes this cache's device, dtype and shape."""
        keys = cache.keys
        return (
            keys.device.type == "cuda"
            and keys.dtype in (torch.bfloat16, torch.float16)
            and all(key == value and key % 8 == 0 for _, key, value in cache.shapes)
            and max(key for _, key, _ in cache.shapes) <= _MOST_CHANNELS
            and cache.block_size % PAGE == 0
        )

    def begin(self, step: StepTensors) -> None:
        """Keep the step's batch layout. Neither this nor `attend` waits for the device."""
        host = step.host
        self._step = step
        self._max_queries = int((host.query_start[1:] - host.query_start[:-1]).max())
        self._max_context = step.max_context or int(host.context_len.max())

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        form: AttentionForm,
        sampled_only: bool = False,
    ) -> torch.Tensor:
        """Implement AttentionBackend.attend."""
        if not form.is_plain:
            raise UnsupportedAttentionError(
                f"flash does not honour {form.extras[0]} (layer {layer})"
            )
        step, window = self._step, form.window
        self._blocks.store(layer, step.slot_mapping, key, value)
        keys, values = self._blocks.pages(layer)
        # a lone query sees all that there is: said so, the kernel takes the heads of a group as its queries,
        # and reads their keys and values once
        right = -1 if self._max_queries == 1 and window is None else 0
        return self._varlen(
            query,
            keys,
            values,
            step.query_start,
            step.query_start,  # of keys: not read with a block table, and yet asked for
            self._max_queries,
            self._max_context,
            scale=form.scale,
            # the kernel counts positions before its own, we count its own too
            window_size=(-1 if window is None else window - 1, right),
            enable_gqa=query.shape[1] != key.shape[1],
            seqused_k=step.context_len,
            block_table=step.block_tables,
            num_splits=1,
        )


def _torch_varlen() -> VarlenAttention:
    # brings torch's compiler along, seconds to import, which a worker on a CPU never needs
    from torch.nn.attention.varlen import varlen_attn

    attend: VarlenAttention = varlen_attn
    return attend
