"""Oracle: plain SDPA, one sequence at a time, over gathered blocks. Slow and obviously right."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from common.engine.attention.form import AttentionForm
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
    n, context = query.shape[0], key.shape[1]
    positions = torch.arange(context, device=query.device)
    own, others = positions[context - n :, None], positions[None, :]
    mask = (own >= others) & (own - others < (form.window or context))
    if form.chunk is not None:
        mask &= own // form.chunk == others // form.chunk
    if not form.is_plain:
        return _attend_by_formula(query, key, value, form, mask)
    out = scaled_dot_product_attention(
        query.transpose(0, 1)[None], key[None], value[None], mask, scale=form.scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def _attend_by_formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    form: AttentionForm,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Attend like _attend_one, in float32, with all that a form can have.

    `mask` [n, context] is true where a query sees a position.
    """
    n, context = mask.shape
    group = query.shape[1] // key.shape[0]
    keys, values = (x.float().repeat_interleave(group, dim=0) for x in (key, value))
    scores = query.transpose(0, 1).float() @ keys.transpose(1, 2) * form.scale
    if form.softcap:
        scores = form.softcap * torch.tanh(scores / form.softcap)
    if form.slopes is not None:
        positions = torch.arange(context, device=mask.device)
        distance = positions[context - n :, None] - positions[None, :]
        scores = scores - form.slopes[:, None, None] * distance
    scores = scores.masked_fill(~mask, float("-inf"))
    if form.sinks is not None:
        sinks = form.sinks[:, None, None].expand(-1, n, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(dim=-1)[..., :context]
    return (weights @ values).transpose(0, 1).to(query.dtype)
