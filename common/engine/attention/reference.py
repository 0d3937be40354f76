"""Oracle: plain SDPA, one sequence at a time, over gathered blocks. Slow and obviously right."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from common.engine.attention.form import AttentionForm
from common.engine.attention.formula import attend_by_formula, visible
from common.engine.device_inputs import StepTensors
from common.engine.memory.kv_cache import KVCache


class ReferenceBackend:
    """Attention on any device that gathers each sequence's blocks and masks explicitly."""

    name = "reference"

    def __init__(self, cache: KVCache) -> None:
        self.kv_shapes, self.kv_places = cache.shapes, cache.places
        self._blocks, self._block_size = cache.blocks, cache.block_size

    def begin(self, step: StepTensors) -> None:
        """Keep the step's batch layout."""
        self._inputs = step.host
        self._slots = step.slot_mapping
        self._tables = step.block_tables.long()

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
        self._blocks.store(layer, self._slots, key, value)
        out = query.new_empty(*query.shape[:2], value.shape[2])
        starts, contexts = self._inputs.query_start, self._inputs.context_len
        for row, context in enumerate(contexts.tolist()):
            span = slice(int(starts[row]), int(starts[row + 1]))
            table = self._tables[row, : -(-context // self._block_size)]
            k, v = (kv[:, :context] for kv in self._blocks.gather(layer, table))
            out[span] = _attend_one(query[span], k.to(query.dtype), v.to(query.dtype), form)
        return out


def _attend_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, form: AttentionForm
) -> torch.Tensor:
    """Attend for one sequence: `query` [n, heads, dim] is last of its positions [kv_heads, context, dim]."""
    if not form.is_plain:
        return attend_by_formula(query, key, value, form)
    n, context = query.shape[0], key.shape[1]
    mask = visible(torch.arange(context - n, context, device=query.device), context, form)
    out = scaled_dot_product_attention(
        query.transpose(0, 1)[None], key[None], value[None], mask, scale=form.scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)
