"""Questions of every kind whose answer a fault must not change."""

import json
import random
from dataclasses import dataclass

from pdserve.v1 import inference_pb2

_STORY = (
    "river lantern copper winter market a the of to and under quiet seven travels window garden "
    "because letters slowly answer engine paper north bread which story counts remember glass"
)
_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "tags": {"type": "array", "items": {"enum": ["red", "blue", "old"]}, "maxItems": 6},
            "size": {"type": "integer", "minimum": 0, "maximum": 999},
            "note": {"type": "string", "minLength": 40, "maxLength": 120},
        },
        "required": ["name", "tags", "size", "note"],
        "additionalProperties": False,
    }
)
_OPTIONS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0, "ignore_eos": True},
    "seeded": {
        "temperature": 0.9,
        "top_p": 0.95,
        "presence_penalty": 0.4,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
    },
    "n = 2": {"temperature": 0.8, "n": 2, "ignore_eos": True},
    "logprobs": {"temperature": 0.7, "logprobs": 3, "ignore_eos": True},
    "json_schema": {
        "temperature": 0.7,
        "structured_output": inference_pb2.StructuredOutput(json_schema=_SCHEMA),
    },
}
KINDS = tuple(_OPTIONS)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One request that may be asked many times; each is only equal to itself."""

    kind: str
    prompt: str
    sampling: inference_pb2.SamplingParams


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of lengths, both inclusive."""

    words: tuple[int, int] = (12, 60)
    tokens: tuple[int, int] = (24, 96)


def draw_questions(draw: random.Random, per_kind: int, sizes: Sizes) -> list[Question]:
    """Return `per_kind` questions of each kind, in random order."""
    questions = [_draw_one(draw, kind, sizes) for kind in KINDS for _ in range(per_kind)]
    draw.shuffle(questions)
    return questions


def _draw_one(draw: random.Random, kind: str, sizes: Sizes) -> Question:
    words = " ".join(draw.choices(_STORY.split(), k=draw.randint(*sizes.words)))
    sampling = inference_pb2.SamplingParams(
        seed=draw.randrange(2**32),
        max_tokens=draw.randint(*sizes.tokens),
        **_OPTIONS[kind],  # type: ignore[arg-type]
    )
    return Question(kind, words, sampling)
