"""Registration of our attention with `transformers`: one function, one object per step.

The model is called with `paged_attention=<AttentionBackend>`; its layers pass that keyword on to the
registered function. A layer that asks for a feature the backends cannot honour is refused at load, by the
self-check, and never computed wrongly.
"""

from typing import Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import ALIBI_FAMILIES, UnsupportedAttentionError
from common.engine.attention.layer_form import layer_form, unhonoured
from common.engine.attention.temperature import scaled_by_position
from common.kv_transfer.layout import KVShape

ATTENTION_NAME, OWN_NAME = "pdserve_paged", "eager"
# Keywords that carry no mathematics of their own here: rotary is already applied, dropout is off.
_HARMLESS = {
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
    "is_causal",
    "logits_to_keep",  # passed on by models that give the logits of every row
}


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
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    token_positions: torch.Tensor | None = None,
    **features: object,
) -> tuple[torch.Tensor, None]:
    """Attend for one layer. `query` [1, heads, T, dim], `key` and `value` [1, kv_heads, T, their channels].

    `token_positions` [T] are those of the step, where the model's queries are scaled by them.
    Returns [1, T, heads, value channels]. Raises UnsupportedAttentionError.
    """
    layer = getattr(module, "layer_idx", None)
    asked = _unknown(module, features) | unhonoured(module, layer, sliding_window, softcap, s_aux)
    if key.shape[:3] != value.shape[:3]:
        asked.add("fewer or more values than keys")
    layer = _require_layer(module, layer, asked)
    if paged_attention is None:
        raise UnsupportedAttentionError(
            f"{type(module).__name__} drops the keyword paged_attention"
        )
    place = _place(module, layer, key, value, paged_attention)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    form = layer_form(module, layer, scale, sliding_window, softcap, s_aux)
    query = scaled_by_position(module, query, token_positions)
    # some models rotate in float32; blocks hold the model's dtype
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return paged_attention.attend(place, query, key, value, form)[None], None


def _place(
    module: torch.nn.Module,
    layer: int,
    key: torch.Tensor,
    value: torch.Tensor,
    backend: AttentionBackend,
) -> int:
    """Return the place of a layer's keys and values. Raises UnsupportedAttentionError for other shapes."""
    found = key.shape[1], key.shape[3], value.shape[3]
    place = backend.kv_places[layer] if layer < len(backend.kv_places) else len(backend.kv_shapes)
    expected = backend.kv_shapes[place] if place < len(backend.kv_shapes) else None
    if found == expected:
        return place
    # blocks would be overrun
    heads, *dims = found
    says = "knows no such layer" if expected is None else f"says {_without_repeat(expected)}"
    raise UnsupportedAttentionError(
        f"{type(module).__name__} (layer {layer}) has {heads} KV heads of "
        f"{' and '.join(map(str, dict.fromkeys(dims)))} channels, its configuration {says}"
    )


def _without_repeat(shape: KVShape) -> tuple[int, ...]:
    heads, *dims = shape
    return heads, *dict.fromkeys(dims)


def _require_layer(module: torch.nn.Module, layer: object, asked: set[str]) -> int:
    """Return the layer's index; raise UnsupportedAttentionError without one, or where anything is `asked`."""
    if asked or not isinstance(layer, int):
        raise UnsupportedAttentionError(
            f"{type(module).__name__} (layer {layer}) asks for {', '.join(sorted(asked)) or 'no layer index'}"
        )
    return layer


def _unknown(module: torch.nn.Module, features: dict[str, object]) -> set[str]:
    names = {name for name, value in features.items() if value is not None and value is not False}
    if getattr(module, "is_causal", True) is False:
        names.add("attention to later positions")
    return names - _HARMLESS


def our_name(family: str) -> str:
    """Return the attention to load a family with: its own where alibi.py will replace its modules."""
    return OWN_NAME if family in ALIBI_FAMILIES else ATTENTION_NAME


def choose_attention(model: Any, name: str) -> None:
    """Choose OWN_NAME or ATTENTION_NAME for a loaded model; alibi.py's families know one way alone."""
    if our_name(model.config.model_type) == ATTENTION_NAME:
        model.set_attn_implementation(name)


def register() -> None:
    """Make the function known to `transformers` under ATTENTION_NAME; safe to repeat."""
    # two seconds of a core, which a model without it does not take (weights/choose.py)
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, paged_attention)
