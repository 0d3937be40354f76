"""Configuration of a plain Llama, read without `transformers`, whose import takes two seconds of a core.

Taken are only keys and values that are known: to name what llama.py computes, or to change nothing. Any other
leaves the folder to `transformers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

_COMPUTED: Mapping[str, object] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
}
_OFF = {"attention_bias", "mlp_bias", "rope_interleaved", "rope_scaling"}
_WITHOUT_EFFECT = {
    "_model_name_or_path",
    "_name_or_path",
    "attention_dropout",  # of training
    "bos_token_id",
    "dtype",
    "eos_token_id",  # read_eos_token_ids reads it
    "initializer_range",
    "is_llama_config",
    "pad_token_id",
    "pretraining_tp",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_OPTIONAL = {"head_dim", "num_key_value_heads"}
_ROTARY = {"rope_parameters", "rope_theta"}
_KNOWN = {
    *(*_COMPUTED, *_COUNTS, "rms_norm_eps", "tie_word_embeddings"),
    *(_OFF | _WITHOUT_EFFECT | _OPTIONAL | _ROTARY),
}


@dataclass(frozen=True, slots=True)
class PlainConfig:
    """Numbers of a plain Llama, under the names that its configuration has in `transformers`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    model_type: ClassVar[str] = "llama"
    hidden_act: ClassVar[str] = "silu"
    is_heterogeneous: ClassVar[bool] = False  # all layers are alike

    def get_text_config(self) -> Self:
        """Return the language model's configuration: this one."""
        return self

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Self | None:
        """Read the fields of a config.json; None for anything but a plain Llama."""
        is_computed = all(fields.get(key) == value for key, value in _COMPUTED.items())
        if not is_computed or not _KNOWN.issuperset(fields) or not _are_off(fields):
            return None
        found: dict[str, Any] = {name: fields.get(name) for name in _COUNTS}
        if not all(map(_is_count, found.values())):
            return None
        heads = found["num_attention_heads"]
        optional = {"num_key_value_heads": heads, "head_dim": found["hidden_size"] // heads}
        for name, default in optional.items():
            found[name] = default if fields.get(name) is None else fields[name]
        found["rms_norm_eps"], found["rope_theta"] = fields.get("rms_norm_eps"), _theta(fields)
        found["tie_word_embeddings"] = fields.get("tie_word_embeddings", False)
        return cls(**found) if _is_sound(found) else None


def _is_sound(found: Mapping[str, Any]) -> bool:
    counts = (found["num_key_value_heads"], found["head_dim"])
    numbers = (found["rms_norm_eps"], found["rope_theta"])
    if not all(map(_is_count, counts)) or not all(map(_is_number, numbers)):
        return False
    heads, kv_heads = found["num_attention_heads"], found["num_key_value_heads"]
    is_whole = not (found["hidden_size"] % heads or heads % kv_heads or found["head_dim"] % 2)
    return is_whole and type(found["tie_word_embeddings"]) is bool


def _are_off(fields: Mapping[str, object]) -> bool:
    return all(fields.get(key) in (None, False) for key in _OFF)


def _theta(fields: Mapping[str, object]) -> object:
    """Return the base of rotary angles; None where something scales them, or no base is named."""
    rotary = fields.get("rope_parameters")
    if rotary is None:
        return fields.get("rope_theta")
    if "rope_theta" in fields or not isinstance(rotary, dict):
        return None
    is_plain = rotary.keys() == {"rope_theta", "rope_type"} and rotary["rope_type"] == "default"
    return rotary["rope_theta"] if is_plain else None


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and value > 0
