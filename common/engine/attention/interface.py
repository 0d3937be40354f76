"""Registration of our attention with `transformers`: one function, one object per step.

The model is called with `paged_attention=<AttentionBackend>`; its layers pass that keyword on to the
registered function. A layer that asks for a feature the backends cannot honour is refused at load, by the
self-check, and never computed wrongly.
"""

from typing import Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.by_cache import BY_CACHE_FAMILIES, handed_over
from common.engine.attention.form import ALIBI_FAMILIES, UnsupportedAttentionError
from common.engine.attention.key_biases import has_key_biases
from common.engine.attention.latent import absorb, into_latents, out_of_latents
from common.engine.attention.layer_form import layer_form, unhonoured
from common.engine.attention.places import place_of
from common.engine.attention.temperature import scaled_by_position

ATTENTION_NAME, OWN_NAME = "pdserve_paged", "eager"
_CAUSAL_BY_MASK = {"BigBirdPegasusDecoderAttention"}  # modules that say otherwise of themselves
# multimodal families whose towers, which are taken out, are built by the name of their attention
_TOWERS_KNOW_OWN = {"deepseek_ocr2", "deepseek_vl_hybrid"}
# Keywords that carry no mathematics of their own here: rotary is already applied, dropout is off.
_HARMLESS = {
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
    "is_causal",
    "indices",  # of all positions; see indexed.py
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
    if (handed := handed_over(key)) is not None:
        key, value, paged_attention = handed.key, handed.value, handed.backend
    asked = _unknown(module, features) | unhonoured(module, layer, sliding_window, softcap, s_aux)
    if key.shape[:3] != value.shape[:3]:
        asked.add("fewer or more values than keys")
    layer = _require_layer(module, layer, asked)
    if paged_attention is None:
        raise UnsupportedAttentionError(
            f"{type(module).__name__} drops the keyword paged_attention"
        )
    place = place_of(type(module).__name__, layer, key, value, paged_attention)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    form = layer_form(module, layer, scale, sliding_window, softcap, s_aux)
    query = into_latents(module, scaled_by_position(module, query, token_positions))
    # some models rotate in float32; blocks hold the model's dtype
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    out = paged_attention.attend(place, query, key, value, form)
    return out_of_latents(module, out)[None], None


def _require_layer(module: torch.nn.Module, layer: object, asked: set[str]) -> int:
    """Return the layer's index; raise UnsupportedAttentionError without one, or where anything is `asked`."""
    if asked or not isinstance(layer, int):
        raise UnsupportedAttentionError(
            f"{type(module).__name__} (layer {layer}) asks for {', '.join(sorted(asked)) or 'no layer index'}"
        )
    return layer


def _unknown(module: torch.nn.Module, features: dict[str, object]) -> set[str]:
    names = {name for name, value in features.items() if value is not None and value is not False}
    is_masked = type(module).__name__ in _CAUSAL_BY_MASK
    if getattr(module, "is_causal", True) is False and not is_masked:
        names.add("attention to later positions")
    return names - _HARMLESS


def our_name(family: str) -> str:
    """Return the attention to load a family with: its own where its classes know no other."""
    knows_own = family in ALIBI_FAMILIES | BY_CACHE_FAMILIES | _TOWERS_KNOW_OWN
    return OWN_NAME if knows_own else ATTENTION_NAME


def choose_attention(model: Any, name: str) -> None:
    """Choose OWN_NAME or ATTENTION_NAME for a loaded model; alibi.py's families know one way alone."""
    family = model.config.model_type
    if family in BY_CACHE_FAMILIES:
        # "eager" adds Falcon's biases twice; with ours no mask is made
        is_twice = name == OWN_NAME and has_key_biases(model.config)
        model.config._attn_implementation = "sdpa" if is_twice else name
    elif family not in ALIBI_FAMILIES:
        model.set_attn_implementation(name)
    absorb(model, is_absorbed=name == ATTENTION_NAME)


def register() -> None:
    """Make the function known to `transformers` under ATTENTION_NAME; safe to repeat."""
    # two seconds of a core, which a model without it does not take (weights/choose.py)
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, paged_attention)
