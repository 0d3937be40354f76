"""Shapes of a model's keys and values, layer by layer, from its configuration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from common.engine.attention.key_biases import BIAS_CHANNELS, has_key_biases
from common.kv_transfer.layout import KVShape, LatentShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# families whose layers with a window have twice the KV heads, which no number of theirs says
_DOUBLED_IN_WINDOWS = {"mimo_v2_flash"}
# families that attend over more KV heads, or wider values, than their numbers say: each kept head repeated
# for every expert of attention (JetMoe), two heads' values side by side (attention/differential.py)
_REPEATED, _PAIRED = {"jetmoe"}, {"diffllama"}
_LATENT = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


class LayerShapes(NamedTuple):
    """Shapes of the layers that have keys and values of their own.

    `places` is empty unless some layers have none. Then it has, by layer, the place in `own` of what is read.
    """

    own: tuple[KVShape, ...]
    places: tuple[int, ...] = ()


def read_shapes(text: "PreTrainedConfig") -> LayerShapes:
    """Read the shapes of a language model's configuration."""
    num_layers = text.num_hidden_layers
    layers: Sequence[PreTrainedConfig] = [text] * num_layers
    if text.is_heterogeneous:
        layers = text.per_layer_config
    places = _places(text)
    own = tuple(_shape(layers[i], i) for i in range(num_layers) if places[i] is None)
    if len(own) == num_layers:
        return LayerShapes(own)
    return LayerShapes(own, tuple(i if p is None else p for i, p in enumerate(places)))


def has_various_heads(text: "PreTrainedConfig") -> bool:
    """Return True if layers have different numbers of query heads; the model has no number then."""
    return _varies(text, "num_attention_heads")


def _varies(text: "PreTrainedConfig", name: str) -> bool:
    return bool(text.is_heterogeneous) and name in (text.per_layer_attributes or ())


def _shape(layer: "PreTrainedConfig", index: int) -> KVShape:
    heads = layer.num_attention_heads
    nope, rope, value_dim = (getattr(layer, name, None) for name in _LATENT)
    if nope is not None and rope is not None and value_dim:
        # multi-head latent attention (DeepSeek-V2): see attention/latent.py
        is_rotated = (getattr(layer, "no_rope_layers", None) or {index: True})[index]
        rotated = rope if is_rotated else 0  # Mistral Large 4 rotates in some layers
        return LatentShape(1, layer.kv_lora_rank + rotated, layer.kv_lora_rank)
    is_grouped = getattr(layer, "new_decoder_architecture", False)  # Falcon 40B's, not 7B's
    is_single = getattr(layer, "multi_query", False) and not is_grouped
    named = "num_kv_heads" if is_grouped else "num_key_value_heads"
    kv_heads = 1 if is_single else getattr(layer, named, None) or heads
    if layer.model_type in _DOUBLED_IN_WINDOWS and layer.layer_types[index] == "sliding_attention":
        kv_heads *= 2
    if layer.model_type in _REPEATED:
        kv_heads = heads
    key_dim = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    if layer.model_type in _PAIRED:
        value_dim = 2 * key_dim
    further = BIAS_CHANNELS if has_key_biases(layer) else 0
    return KVShape(kv_heads, key_dim + further, value_dim or key_dim)


def _places(text: "PreTrainedConfig") -> list[int | None]:
    """Return, by layer, the earlier layer whose keys and values it reads; None where it has its own.

    Gemma 3n and 4: the upper layers read those of the last layer of their kind that has some. Layers without
    any follow all that have, so a layer's number is its place.
    """
    modes: list[str | None] = (
        getattr(text, "kv_sharing_modes", None) or [None] * text.num_hidden_layers
    )
    if _varies(text, "kv_lora_rank") or getattr(text, "kv_lora_rank", None):
        modes = [None] * text.num_hidden_layers  # layers that share latents may lie anywhere
    stored = {text.layer_types[i]: i for i, mode in enumerate(modes) if mode == "store"}
    return [
        stored[text.layer_types[layer]] if mode == "reuse" else None
        for layer, mode in enumerate(modes)
    ]
