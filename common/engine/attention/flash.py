"""Attention on CUDA: FlashAttention (Dao 2023) over paged blocks, chunks and decode tokens in one call.

torch's own `varlen_attn` needs no package beside torch. Split-KV stays off: its order of sums depends on the
longest sequence of the batch, and a sequence's tokens must not depend on its neighbours.
"""

from collections.abc import Callable

import torch

from common.engine.attention.form import AttentionForm, UnsupportedAttentionError
from common.engine.attention.unpacked import LEAST_PAGES, MOST_CAPTURED, Group, UnpackedPages
from common.engine.device_inputs import StepTensors
from common.engine.memory.kv_cache import KVCache

PAGE = 256  # FlashAttention 2 takes blocks of a multiple of it
_MOST_CHANNELS = 256

VarlenAttention = Callable[..., torch.Tensor]


class FlashBackend:
    """Attention over pages on a GPU (see `can_read`); `varlen` acts like torch's `varlen_attn`.

    The kernel reads no quantized pages: those that a step uses are unpacked first, in every layer.
    """

    name = "flash"

    def __init__(
        self,
        cache: KVCache,
        varlen: VarlenAttention | None = None,
        unpacked_pages: int = LEAST_PAGES,
    ) -> None:
        self.kv_shapes, self.kv_places = cache.shapes, cache.places
        self._blocks = cache.blocks
        levels = cache.levels
        self._unpacked = UnpackedPages(cache, levels, unpacked_pages) if levels else None
        self._varlen = varlen or _torch_varlen()

    @staticmethod
    def can_read(cache: KVCache) -> bool:
        """Return True if the kernel takes this cache's device, dtype and shape."""
        return (
            cache.keys.device.type == "cuda"
            and cache.dtype in (torch.bfloat16, torch.float16)
            and all(key == value and key % 8 == 0 for _, key, value in cache.shapes)
            and max(key for _, key, _ in cache.shapes) <= _MOST_CHANNELS
            and cache.block_size % PAGE == 0
        )

    def most_captured(self, max_blocks: int) -> int | None:
        """Return how many sequences of so many blocks a captured step may have; None: any number."""
        return None if self._unpacked is None else MOST_CAPTURED // max_blocks

    def begin(self, step: StepTensors) -> None:
        """Keep the step's batch layout. Neither this nor `attend` waits for the device."""
        host = step.host
        self._step = step
        self._max_queries = int((host.query_start[1:] - host.query_start[:-1]).max())
        self._max_context = step.max_context or int(host.context_len.max())
        self._groups = [] if self._unpacked is None else self._unpacked.groups(step)

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
        step = self._step
        self._blocks.store(layer, step.slot_mapping, key, value)
        if self._unpacked is None:
            pages = self._blocks.pages(layer)
            return self._call(query, *pages, step, form)
        out = query.new_empty(*query.shape[:2], value.shape[2])
        for group in self._groups:
            pages = self._unpacked.unpack(layer, group.blocks)
            out[group.rows] = self._call(query[group.rows], *pages, group, form)
        return out

    def _call(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: StepTensors | Group,
        form: AttentionForm,
    ) -> torch.Tensor:
        window = form.window
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
            enable_gqa=query.shape[1] != keys.shape[2],
            seqused_k=step.context_len,
            block_table=step.block_tables,
            num_splits=1,
        )


def _torch_varlen() -> VarlenAttention:
    # brings torch's compiler along, seconds to import, which a worker on a CPU never needs
    from torch.nn.attention.varlen import varlen_attn

    attend: VarlenAttention = varlen_attn
    return attend
