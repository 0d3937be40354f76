"""Attention with ALiBi (Press et al. 2022) for families whose modules attend by themselves: BLOOM, MPT.

Their modules take no other attention, and their models drop our keyword. So a module of ours, which knows
the backend, takes the place of each and uses its products.
"""

from typing import Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import ALIBI_FAMILIES, AttentionForm

Module = Any  # modules of `transformers`, read by attribute name


def take_over_alibi(model: Module, backend: AttentionBackend) -> None:
    """Replace the attention modules of a model of these families; leave any other model as it is."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in ALIBI_FAMILIES:
        return
    device, heads = next(model.parameters()).device, model.config.num_attention_heads
    body = model.transformer
    if family == "bloom":
        ones = torch.ones(1, 2, dtype=torch.int64, device=device)
        slopes = body.build_alibi_tensor(ones, heads, dtype=torch.float32)[:, 0, 1]
        for block in body.h:
            block.self_attention = _BloomAttention(_own(block.self_attention), slopes, backend)
        return
    slopes = -body.build_mpt_alibi_tensor(heads, 2, device=device)[:, 0, 0]
    for block in body.blocks:
        block.attn = _MptAttention(_own(block.attn), slopes, backend)


def _own(attention: Module) -> Module:
    """Return the model's own module, also where one of ours, for an earlier backend, has its place."""
    is_ours = isinstance(attention, _BloomAttention | _MptAttention)
    return attention.theirs if is_ours else attention


class _BloomAttention(torch.nn.Module):  # type: ignore[misc]
    """Module in the place of BloomAttention; it adds the residual too."""

    def __init__(self, theirs: Module, slopes: torch.Tensor, backend: AttentionBackend) -> None:
        super().__init__()
        self.theirs, self._backend = theirs, backend
        self._place = backend.kv_places[theirs.layer_idx]
        self._form = AttentionForm(theirs.inv_norm_factor, slopes=slopes.float().contiguous())

    def forward(
        self, hidden: torch.Tensor, residual: torch.Tensor, **unused: object
    ) -> tuple[torch.Tensor, None]:
        """Attend for `hidden` [1, T, n], whatever mask and biases are given."""
        theirs = self.theirs
        merged = theirs.query_key_value(hidden)[0]
        query, key, value = merged.view(len(merged), theirs.num_heads, 3, theirs.head_dim).unbind(2)
        out = self._backend.attend(self._place, query, key, value, self._form)
        return theirs.dense(out.flatten(1))[None] + residual, None


class _MptAttention(torch.nn.Module):  # type: ignore[misc]
    """Module in the place of MptAttention."""

    def __init__(self, theirs: Module, slopes: torch.Tensor, backend: AttentionBackend) -> None:
        super().__init__()
        self.theirs, self._backend = theirs, backend
        self._place = backend.kv_places[theirs.layer_idx]
        self._form = AttentionForm(theirs.softmax_scale, slopes=slopes.float().contiguous())

    def forward(self, hidden: torch.Tensor, **unused: object) -> tuple[torch.Tensor, None]:
        """Attend for `hidden` [1, T, n], whatever mask and biases are given."""
        theirs = self.theirs
        merged = theirs.Wqkv(hidden)[0]
        if theirs.clip_qkv:
            merged = merged.clamp(min=-theirs.clip_qkv, max=theirs.clip_qkv)
        query, key, value = merged.view(len(merged), 3, theirs.n_heads, theirs.head_dim).unbind(1)
        out = self._backend.attend(self._place, query, key, value, self._form)
        return theirs.out_proj(out.flatten(1))[None], None
