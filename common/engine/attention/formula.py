"""Attention by its formula, in float32, with all that a form can have."""

import torch

from common.engine.attention.form import AttentionForm

_MAX_SCORE_BYTES = 64 * 2**20  # a few tensors of this size are alive at once


def attend_by_formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    form: AttentionForm,
    max_score_bytes: int = _MAX_SCORE_BYTES,
) -> torch.Tensor:
    """Attend for one sequence: `query` [n, heads, dim] is last of its positions [kv_heads, context, dim].

    The scores of a few queries at a time, at least one, take at most `max_score_bytes`.
    """
    (n, heads, _), context = query.shape, key.shape[1]
    group = heads // key.shape[0]
    keys, values = (x.float().repeat_interleave(group, dim=0) for x in (key, value))
    positions = torch.arange(context - n, context, device=query.device)
    size = max(max_score_bytes // (heads * context * keys.itemsize), 1)
    runs = zip(query.split(size), positions.split(size), strict=True)
    return torch.cat([_attend_run(run, own, keys, values, form) for run, own in runs])


def visible(positions: torch.Tensor, context: int, form: AttentionForm) -> torch.Tensor:
    """Return a mask [n, context], true where a query at `positions` [n] sees a position."""
    own = positions[:, None]
    others = torch.arange(context, device=positions.device)[None, :]
    mask = (own >= others) & (own - others < (form.window or context))
    if form.chunk is not None:
        mask &= own // form.chunk == others // form.chunk
    return mask


def _attend_run(
    query: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    form: AttentionForm,
) -> torch.Tensor:
    """Attend for queries at `positions` [n]; `keys` and `values` [heads, context, dim] are float32."""
    n, context = query.shape[0], keys.shape[1]
    scores = query.transpose(0, 1).float() @ keys.transpose(1, 2) * form.scale
    if form.softcap:
        scores = form.softcap * torch.tanh(scores / form.softcap)
    if form.slopes is not None:
        distance = positions[:, None] - torch.arange(context, device=positions.device)
        scores = scores - form.slopes[:, None, None] * distance
    scores = scores.masked_fill(~visible(positions, context, form), float("-inf"))
    if form.sinks is not None:
        sinks = form.sinks[:, None, None].expand(-1, n, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(dim=-1)[..., :context]
    return (weights @ values).transpose(0, 1).to(query.dtype)
