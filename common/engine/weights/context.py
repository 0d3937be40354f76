"""Context that a deployment serves, and the set of rotary factors that LongRoPE takes for it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common.auto_setting import Auto
from common.engine.model_spec import ModelSpec
from common.engine.weights.hybrid import needs_no_limit
from pdserve.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LIMIT = "max_position_embeddings"


def use_context(config: "PreTrainedConfig", wanted: int | Auto) -> str:
    """Write into a configuration what follows from a context of `wanted` tokens.

    Return what the fingerprint ends with where keys differ from those of shorter contexts, else "".

    LongRoPE (Ding et al. 2024) has long factors for sequences beyond the length of its pretraining, and
    `transformers` turns all keys by them once a sequence has grown beyond. Keys stored before no longer fit.
    So one set serves a whole deployment, as in vLLM: the long one where `wanted` is more than that length.
    A model that names no limit, and needs none, gets this one.
    """
    if wanted == "auto":
        return ""
    text = config.get_text_config()
    if needs_no_limit(text) and not hasattr(text, _LIMIT):
        setattr(text, _LIMIT, wanted)
    beyond = [rope for rope in rope_parameters(text) if (original_tokens(rope) or wanted) < wanted]
    for rope in beyond:
        rope["short_factor"] = rope["long_factor"]
        if "long_mscale" in rope:  # PhiMoE's own
            rope["short_mscale"] = rope["long_mscale"]
    return "-long" if beyond else ""


def within(spec: ModelSpec, wanted: int | Auto) -> ModelSpec:
    """Return the numbers of a model that serves `wanted` tokens. Raises SetupError for more than it can."""
    if wanted == "auto":
        return spec
    if wanted > spec.max_context_tokens:
        raise SetupError(
            f"engine.max_context_tokens {wanted} exceeds the {spec.max_context_tokens} of the model",
            "lower it, or set it to auto",
        )
    return replace(spec, max_context_tokens=wanted)


def original_tokens(rope: dict[str, Any]) -> int | None:
    """Return the length in tokens up to which LongRoPE's short factors hold; None: one set holds at any."""
    original = rope.get("original_max_position_embeddings")
    has_sets = rope.get("rope_type") == "longrope" and isinstance(original, int)
    return original if has_sets and rope["short_factor"] != rope["long_factor"] else None


def rope_parameters(text: "PreTrainedConfig") -> Iterator[dict[str, Any]]:
    """Yield the rotary parameters of all layers, or those of each kind of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [kind for kind in parameters.values() if isinstance(kind, dict)]
    yield from nested or [parameters]
