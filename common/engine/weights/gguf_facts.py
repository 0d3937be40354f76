"""Cheap check of a GGUF file before the slow load: that it is whole, and facts that would be lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pdserve.errors import SetupError

if TYPE_CHECKING:
    from common.engine.weights.gguf_reader import QuickReader

_MAGIC = b"GGUF"
_ARCHITECTURE = "general.architecture"
_END_OF_TURN = "tokenizer.ggml.eot_token_id"
_SPLITTER = "tokenizer.ggml.pre"
_SCALING = ".rope.scaling.type"
_FREQUENCIES = "rope_freqs.weight"
# The vocabularies whose text is cut at every digit first, by llama.cpp's names for them.
_DIGITS_FIRST = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


@dataclass(frozen=True)
class GgufFacts:
    """Facts that the file states and transformers drops."""

    end_of_turn: int | None  # a second end token, at which chat models stop
    splits_digits: bool
    # what each rotary frequency is divided by (Llama 3.1); empty: nothing
    frequency_divisors: tuple[float, ...] = ()


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
    divisors: tuple[float, ...] = ()
    for tensor in reader.tensors:
        if tensor.name == _FREQUENCIES:
            divisors = tuple(float(value) for value in tensor.data.flatten())
    factors = any(tensor.name.startswith("rope_factors") for tensor in reader.tensors)
    scaled = factors or any(
        value != "none" for key, value in fields.items() if key.endswith(_SCALING)
    )
    # transformers rebuilds the scaling for gpt-oss alone and forgets it for all others.
    if scaled and fields.get(_ARCHITECTURE) != "gpt-oss":
        raise SetupError(
            f"{name} scales its positions, which the conversion would lose",
            "Use the model's safetensors folder instead",
        )
    return GgufFacts(fields.get(_END_OF_TURN), fields.get(_SPLITTER) in _DIGITS_FIRST, divisors)


def architecture_of(reader: "QuickReader") -> str:
    """Return llama.cpp's name of the model's architecture; empty where the file has none."""
    field = reader.fields.get(_ARCHITECTURE)
    return "" if field is None else str(field.contents())


def _wanted(key: str) -> bool:
    return key in (_ARCHITECTURE, _END_OF_TURN, _SPLITTER) or key.endswith(_SCALING)
