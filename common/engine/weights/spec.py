"""Numbers of a model from its configuration files; configurations that no backend honours are refused."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import StoredDtype
from common.engine.attention.indexed import INDEXED, INDEXED_BY_LAYER, INDEXED_FAMILIES
from common.engine.attention.key_biases import has_key_biases
from common.engine.attention.layer_form import extras_of
from common.engine.model_spec import ModelSpec
from common.engine.weights.config_file import CONFIG
from common.engine.weights.context import original_tokens, rope_parameters
from common.engine.weights.fingerprint import fingerprint
from common.engine.weights.folder import read_eos_token_ids
from common.engine.weights.hybrid import (
    has_no_attention,
    is_hybrid,
    needs_no_limit,
    read_layers,
    refuse_dtype,
)
from common.engine.weights.kv_shapes import has_various_heads
from common.kv_transfer.layout import shape_of_all
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
_NEEDED = ("num_attention_heads", "num_hidden_layers", "vocab_size")
_UNSAID_TOKENS = 32_768  # of context
_TUNED = {"llama4_text"}  # families whose scaling by position is ours (attention/temperature.py)
_LIMIT = "max_position_embeddings"
# families that name the limit otherwise; BLOOM and MPT know no positions but by ALiBi
_OTHER_LIMITS = {"bloom": "seq_length", "mpt": "max_seq_len", "whisper": "max_target_positions"}
# families whose table of positions begins with the rows of padding (attention/own_positions.py)
_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

_log = get_logger()


def read_spec(path: Path, config: "PreTrainedConfig", dtype: StoredDtype) -> ModelSpec:
    """Read the model's numbers, and hash its weights.

    Raises SetupError for layers that are not attention over all, a window or a chunk of earlier positions,
    for a configuration without the numbers, for one that leaves the language open, and for a dtype in which
    the family's modules fail.
    """
    spec = read_unhashed(path, config, dtype)
    return replace(spec, fingerprint=f"{fingerprint(path)}-{dtype}")


def read_unhashed(path: Path, config: "PreTrainedConfig", dtype: StoredDtype) -> ModelSpec:
    """Read the numbers without the fingerprint, which takes the time of reading all weights."""
    text = config.get_text_config()
    _refuse_unsupported(config, text)
    _refuse_no_language(path, text)
    refuse_dtype(text, dtype)
    layers = read_layers(text)
    shapes = layers.shapes(text)
    first = shapes.own[0]
    is_alike = shape_of_all(shapes.own) is not None and not shapes.places
    return ModelSpec(
        num_layers=text.num_hidden_layers,
        num_heads=_num_heads(text),
        num_kv_heads=first.num_kv_heads,
        head_dim=first.key_dim,
        vocab_size=text.vocab_size,
        max_context_tokens=max_context_tokens(text),
        eos_token_ids=read_eos_token_ids(path, text.vocab_size),
        dtype=dtype,
        fingerprint="",
        extras=extras_of(text),
        state_layers=layers.state,
        has_key_biases=has_key_biases(text),
        own_kv_shapes=() if is_alike else shapes.own,
        kv_places=shapes.places,
    )


def _num_heads(text: "PreTrainedConfig") -> int:
    """Return the query heads of a layer; 0 where their number varies, or no layer attends."""
    if has_various_heads(text) or has_no_attention(text):
        return 0
    num_heads: int = text.num_attention_heads
    return num_heads


def max_context_tokens(text: "PreTrainedConfig") -> int:
    """Return the longest prompt and output together, in tokens: `max_position_embeddings`.

    Sliding windows do not bound it. Two kinds of rotary scaling turn keys by an angle that depends on the
    sequence's length so far: keys stored earlier no longer fit. Dynamic NTK does so beyond
    `max_position_embeddings`, which nothing here exceeds. LongRoPE (Ding et al. 2024) does so beyond the
    length of its pretraining: the context ends there, unless use_context has made its two sets one.
    An indexer that chooses positions has a choice beyond `index_topk`, where the context ends too.
    A model that mostly keeps states may name no limit, since these have none: it gets one of 32,768.
    Raises SetupError when the configuration names no limit.
    """
    names = (_LIMIT, _OTHER_LIMITS.get(text.model_type, _LIMIT))
    limit = next((getattr(text, name) for name in names if hasattr(text, name)), None)
    if limit is None and needs_no_limit(text):
        _log.warning("context_limited", reason="config.json names no limit", tokens=_UNSAID_TOKENS)
        limit = _UNSAID_TOKENS
    if not isinstance(limit, int) or limit < 1:
        raise _unsupported(f"{text.model_type} says no context length (max_position_embeddings)")
    if text.model_type in _AFTER_PADDING:
        limit -= (text.pad_token_id or 0) + 1
    for rope in rope_parameters(text):
        original = original_tokens(rope)
        if original is not None and original < limit:
            key = "engine.max_context_tokens"
            _log.warning(
                "context_limited", reason="longrope", tokens=original, model=limit, key=key
            )
            limit = original
    if _has_indexer(text) and text.index_topk < limit:
        chosen: int = text.index_topk
        _log.warning("context_limited", reason="indexed attention", tokens=chosen, model=limit)
        limit = chosen
    return limit


def _has_indexer(text: "PreTrainedConfig") -> bool:
    """Return True where a layer may choose positions: most families build indexers in every layer."""
    is_said = INDEXED in (getattr(text, "layer_types", None) or ())
    return is_said or text.model_type in INDEXED_FAMILIES - INDEXED_BY_LAYER


def _refuse_unsupported(config: "PreTrainedConfig", text: "PreTrainedConfig") -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise _unsupported(f"{config.model_type} is an encoder with a decoder, not a decoder alone")
    for layer, kind in enumerate(getattr(text, "layer_types", None) or ()):
        is_indexed = kind == INDEXED and text.model_type in INDEXED_FAMILIES
        if kind not in _LAYER_TYPES and not is_indexed and not is_hybrid(text):
            raise _unsupported(f"its layer {layer} is {kind}")
    if getattr(text, "attn_temperature_tuning", False) and text.model_type not in _TUNED:
        raise _unsupported(f"layers of {text.model_type} scale queries by positions of their own")
    if getattr(text, "alibi", False) and not has_key_biases(text):
        raise _unsupported(f"every layer of {text.model_type} adds ALiBi biases to its scores")
    has_no_number = has_no_attention(text) or has_various_heads(text)
    needed = _NEEDED[1:] if has_no_number else _NEEDED
    if missing := [name for name in needed if not hasattr(text, name)]:
        raise _unsupported(f"{text.model_type} has no {missing[0]}")


def _refuse_no_language(path: Path, text: "PreTrainedConfig") -> None:
    """Raise SetupError where each language has weights of its own, and none is chosen (X-MOD)."""
    if text.model_type == "xmod" and text.default_language not in text.languages:
        raise SetupError(
            f"{path / CONFIG}: default_language is {text.default_language!r}, no language of the model",
            f"Set it to one of its `languages`, such as {', '.join(text.languages[:2])}",
        )


def _unsupported(reason: str) -> SetupError:
    return SetupError(f"the model is not supported: {reason}")
