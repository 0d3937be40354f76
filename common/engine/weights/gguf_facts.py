"""Cheap check of a GGUF file before the slow load: that it is whole, and facts that would be lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdserve.errors import SetupError

if TYPE_CHECKING:
    from common.engine.weights.gguf_reader import QuickReader

_MAGIC = b"GGUF"
_ARCHITECTURE = "general.architecture"
_END_OF_TURN = "tokenizer.ggml.eot_token_id"
_SPLITTER = "tokenizer.ggml.pre"
_SCALING = ".rope.scaling.type"
_FREQUENCIES = "rope_freqs.weight"
_SHORT, _LONG = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = frozenset({_FREQUENCIES, _SHORT, _LONG})
"""Names of tensors that go into the configuration."""
_LONG_ROPE = "phi3"  # the architecture whose LongRoPE transformers computes
_ORIGINAL = f"{_LONG_ROPE}.rope.scaling.original_context_length"
_ATTENTION_FACTOR = f"{_LONG_ROPE}.rope.scaling.attn_factor"
# The vocabularies whose text is cut at every digit first, by llama.cpp's names for them.
_DIGITS_FIRST = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


@dataclass(frozen=True)
class LongRope:
    """LongRoPE's two sets of rotary factors, for texts up to `original_tokens` and for longer ones."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_tokens: int
    attention_factor: float | None  # None: that which follows from the lengths


@dataclass(frozen=True)
class GgufFacts:
    """Facts that the file states and transformers drops."""

    end_of_turn: int | None  # a second end token, at which chat models stop
    splits_digits: bool
    # what each rotary frequency is divided by (Llama 3.1); empty: nothing
    frequency_divisors: tuple[float, ...] = ()
    long_rope: LongRope | None = None


def open_gguf(parts: Sequence[Path]) -> "QuickReader":
    """Open a GGUF model once, in a second for a vocabulary of 250,000.

    Raises SetupError when a file is cut short or is no GGUF.
    """
    # Takes 0.1 s with numpy, and finding a model that is already converted does without.
    from common.engine.weights.gguf_reader import open_parts

    damaged = SetupError(f"{parts[0]} is cut short or not a GGUF file", "Download it again")
    for part in parts:
        with part.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise damaged
    try:
        return open_parts(parts)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise damaged from error


def read_gguf_facts(reader: "QuickReader", name: str) -> GgufFacts:
    """Read the facts of the open file `name`.

    Raises SetupError when it scales its positions in a way that transformers ignores and we do not know.
    """
    fields = {key: field.contents() for key, field in reader.fields.items() if _wanted(key)}
    numbers = {
        tensor.name: tuple(float(value) for value in tensor.data.flatten())
        for tensor in reader.tensors
        if tensor.name in ROPE_TENSORS
    }
    long_rope = _long_rope(fields, numbers)
    has_factors = not numbers.keys().isdisjoint({_SHORT, _LONG})
    scaled = has_factors or any(
        value != "none" for key, value in fields.items() if key.endswith(_SCALING)
    )
    # transformers rebuilds the scaling for gpt-oss alone and forgets it for all others.
    if scaled and long_rope is None and fields.get(_ARCHITECTURE) != "gpt-oss":
        raise SetupError(
            f"{name} scales its positions, which the conversion would lose",
            "Use the model's safetensors folder instead",
        )
    splits_digits = fields.get(_SPLITTER) in _DIGITS_FIRST
    divisors = numbers.get(_FREQUENCIES, ())
    return GgufFacts(fields.get(_END_OF_TURN), splits_digits, divisors, long_rope)


def _long_rope(
    fields: Mapping[str, Any], numbers: Mapping[str, tuple[float, ...]]
) -> LongRope | None:
    """Return a file's LongRoPE; None: it has none, or one that is not known."""
    short, long, original = numbers.get(_SHORT), numbers.get(_LONG), fields.get(_ORIGINAL)
    kinds = {value for key, value in fields.items() if key.endswith(_SCALING)}
    if fields.get(_ARCHITECTURE) != _LONG_ROPE or not kinds <= {"none", "longrope"}:
        return None
    if short is None or long is None or len(short) != len(long) or original is None:
        return None
    factor = fields.get(_ATTENTION_FACTOR)
    return LongRope(short, long, int(original), None if factor is None else float(factor))


def architecture_of(reader: "QuickReader") -> str:
    """Return llama.cpp's name of the model's architecture; empty where the file has none."""
    field = reader.fields.get(_ARCHITECTURE)
    return "" if field is None else str(field.contents())


def _wanted(key: str) -> bool:
    known = (_ARCHITECTURE, _END_OF_TURN, _SPLITTER, _ORIGINAL, _ATTENTION_FACTOR)
    return key in known or key.endswith(_SCALING)
