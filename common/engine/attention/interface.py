"""How a `transformers` model reaches our attention: one registered function, one object per step.

The model is called with `paged_attention=<AttentionBackend>`; its layers hand that keyword on to the
registered function. Whatever a layer asks for that the backends cannot honour is refused at load, by a
probe forward, and never computed wrongly.
"""

import torch
from transformers import AttentionInterface

from common.engine.attention.backend import AttentionBackend

ATTENTION_NAME = "pdserve_paged"
# Keywords that carry no mathematics of their own here: rotary is already applied, dropout is off.
_HARMLESS = {"position_ids", "cache_position", "use_cache", "output_attentions", "is_causal"}


class UnsupportedAttentionError(ValueError):
    """A layer asks for attention that no backend honours; the message names layer and feature."""


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    paged_attention: AttentionBackend | None = None,
    sliding_window: int | None = None,
    **features: object,
) -> tuple[torch.Tensor, None]:
    """Attend for one layer. `query` [1, heads, T, dim], `key` and `value` [1, kv_heads, T, dim].

    Returns [1, T, heads, dim]. Raises UnsupportedAttentionError.
    """
    layer = getattr(module, "layer_idx", None)
    asked = {k for k, v in features.items() if v is not None and v is not False} - _HARMLESS
    if key.shape != value.shape:
        asked.add("values of another shape than its keys")
    if sliding_window is None and getattr(module, "sliding_window", None):
        asked.add("a sliding window by mask alone")
    if asked or not isinstance(layer, int):
        raise UnsupportedAttentionError(
            f"{type(module).__name__} (layer {layer}) asks for {', '.join(sorted(asked)) or 'no layer index'}"
        )
    if paged_attention is None:
        raise UnsupportedAttentionError(
            f"{type(module).__name__} drops the keyword paged_attention"
        )
    if (key.shape[1], key.shape[3]) != paged_attention.kv_shape:  # blocks would be overrun
        raise UnsupportedAttentionError(
            f"{type(module).__name__} (layer {layer}) has {key.shape[1]} KV heads of {key.shape[3]} "
            f"channels, its configuration says {paged_attention.kv_shape}"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # some models rotate in float32; blocks hold the model's dtype
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return paged_attention.attend(layer, query, key, value, scale, sliding_window)[None], None


def register() -> None:
    """Make the function known to `transformers` under ATTENTION_NAME; safe to repeat."""
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
