"""Numbers of a model from its configuration files; configurations that no backend honours are refused."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import StoredDtype
from common.engine.attention.form import ALIBI_FAMILIES
from common.engine.attention.layer_form import extras_of
from common.engine.model_spec import ModelSpec
from common.engine.weights.fingerprint import fingerprint
from common.engine.weights.folder import read_eos_token_ids
from common.engine.weights.hybrid import is_hybrid, read_layers
from common.engine.weights.kv_shapes import read_shapes
from common.kv_transfer.layout import shape_of_all
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
_NEEDED = ("num_hidden_layers", "num_attention_heads", "vocab_size")
_TUNED = {"llama4_text"}  # families whose scaling by position is ours (attention/temperature.py)
# names of the limit; the last two are those of BLOOM and MPT, which know no positions but by ALiBi
_LIMITS = ("max_position_embeddings", "seq_length", "max_seq_len")

_log = get_logger()


def read_spec(path: Path, config: "PreTrainedConfig", dtype: StoredDtype) -> ModelSpec:
    """Read the model's numbers, and hash its weights.

    Raises SetupError for layers that are not attention over all, a window or a chunk of earlier positions,
    and for a configuration without the numbers.
    """
    spec = read_unhashed(path, config, dtype)
    return replace(spec, fingerprint=f"{fingerprint(path)}-{dtype}")


def read_unhashed(path: Path, config: "PreTrainedConfig", dtype: StoredDtype) -> ModelSpec:
    """Read the numbers without the fingerprint, which takes the time of reading all weights."""
    text = config.get_text_config()
    _refuse_unsupported(config, text)
    layers = read_layers(text)
    shapes = layers.with_kv(read_shapes(text))
    first = shapes.own[0]
    is_alike = shape_of_all(shapes.own) is not None and not shapes.places
    return ModelSpec(
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.key_dim,
        vocab_size=text.vocab_size,
        max_context_tokens=max_context_tokens(text),
        eos_token_ids=read_eos_token_ids(path, text.vocab_size),
        dtype=dtype,
        fingerprint="",
        extras=extras_of(text),
        state_layers=layers.state,
        own_kv_shapes=() if is_alike else shapes.own,
        kv_places=shapes.places,
    )


def max_context_tokens(text: "PreTrainedConfig") -> int:
    """Return the longest prompt and output together, in tokens: `max_position_embeddings`.

    Sliding windows do not bound it. Two kinds of rotary scaling turn keys by an angle that depends on the
    sequence's length so far: keys stored earlier no longer fit. Dynamic NTK does so beyond
    `max_position_embeddings`, which nothing here exceeds. LongRoPE (Ding et al. 2024) does so beyond the
    length of its pretraining: the context ends there, where its short factors hold for every sequence.
    Raises SetupError when the configuration names no limit.
    """
    names = _LIMITS if text.model_type in ALIBI_FAMILIES else _LIMITS[:1]
    limit = next((getattr(text, name) for name in names if hasattr(text, name)), None)
    if not isinstance(limit, int) or limit < 1:
        raise _unsupported(f"{text.model_type} says no context length (max_position_embeddings)")
    for rope in _rope_parameters(text):
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings")
            if isinstance(original, int) and original < limit:
                _log.warning("context_limited", reason="longrope", tokens=original, model=limit)
                limit = original
    return limit


def _refuse_unsupported(config: "PreTrainedConfig", text: "PreTrainedConfig") -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise _unsupported(f"{config.model_type} is an encoder with a decoder, not a decoder alone")
    for layer, kind in enumerate(getattr(text, "layer_types", None) or ()):
        if kind not in _LAYER_TYPES and not is_hybrid(text):
            raise _unsupported(f"its layer {layer} is {kind}")
    if getattr(text, "attn_temperature_tuning", False) and text.model_type not in _TUNED:
        raise _unsupported(f"layers of {text.model_type} scale queries by positions of their own")
    if getattr(text, "alibi", False):
        raise _unsupported(f"every layer of {text.model_type} adds ALiBi biases to its scores")
    if missing := [name for name in _NEEDED if not hasattr(text, name)]:
        raise _unsupported(f"{text.model_type} has no {missing[0]}")


def _rope_parameters(text: "PreTrainedConfig") -> Iterator[Mapping[str, object]]:
    """Yield the parameters of all layers, or those of each kind of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [kind for kind in parameters.values() if isinstance(kind, dict)]
    yield from nested or [parameters]


def _unsupported(reason: str) -> SetupError:
    return SetupError(f"the model is not supported: {reason}")
