"""Requests that a step could fail on are refused; all that a router lets through pass."""

import math
from dataclasses import replace

import pytest

from common.engine.model_spec import ModelSpec
from common.engine.request_check import refusal_of
from common.messages import SamplingParams, WorkRequest
from pdserve.errors import Reason

SPEC = ModelSpec(2, 4, 2, 16, 101, 512, frozenset({5}), "float32", "fingerprint")
PLAIN = SamplingParams(temperature=0.0, seed=0, max_tokens=12)
GOOD = WorkRequest("r", 0, (1, 2, 100, 0), PLAIN)
VOCABULARY, INVALID = Reason.TOKEN_OUT_OF_VOCABULARY, Reason.INVALID_FIELD
PROMPTS = {
    "no token": ((), Reason.EMPTY_PROMPT),
    "the first one beyond": ((1, 101, 2), VOCABULARY),
    "far beyond": ((2**32 - 1,), VOCABULARY),
    "negative": ((5, -1), VOCABULARY),
    "too long": ((1,) * 513, Reason.CONTEXT_EXCEEDED),
}
OPTIONS: list[tuple[dict[str, object], Reason]] = [
    ({"stop_token_ids": (3, 101)}, VOCABULARY),
    ({"logit_bias": ((0, 1.0), (101, 1.0))}, VOCABULARY),
    ({"logit_bias": ((0, math.nan),)}, INVALID),
    ({"allowed_token_ids": (3, 101)}, VOCABULARY),
    ({"bad_words": ((1,), (3, 101))}, VOCABULARY),
    ({"bad_words": ((1,), ())}, INVALID),
    ({"max_tokens": 0}, INVALID),
    ({"min_tokens": -1}, INVALID),
    ({"temperature": -0.1}, INVALID),
    ({"temperature": math.nan}, INVALID),
    ({"temperature": math.inf}, INVALID),
    ({"top_k": -1}, INVALID),
    ({"top_k": 2**63}, INVALID),
    ({"top_p": 0.0}, INVALID),
    ({"top_p": math.nan}, INVALID),
    ({"min_p": 1.1}, INVALID),
    ({"repetition_penalty": 0.0}, INVALID),
    ({"repetition_penalty": math.inf}, INVALID),
    ({"presence_penalty": math.nan}, INVALID),
    ({"frequency_penalty": -math.inf}, INVALID),
    ({"logprobs": -1}, INVALID),
    ({"prompt_logprobs": -1}, INVALID),
]
EVERYTHING = SamplingParams(
    temperature=100.0,
    seed=2**64 - 1,
    max_tokens=508,
    stop_token_ids=(0, 100),
    top_k=2**31 - 1,
    top_p=0.001,
    min_p=1.0,
    repetition_penalty=0.01,
    presence_penalty=-2.0,
    frequency_penalty=2.0,
    logit_bias=((0, -100.0), (100, 100.0)),
    min_tokens=508,
    bad_words=((0, 100), (100,)),
    allowed_token_ids=(0, 100),
    logprobs=0,
    prompt_logprobs=20,
)


@pytest.mark.parametrize(("prompt", "reason"), PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_that_no_step_can_run_is_refused(prompt: tuple[int, ...], reason: Reason) -> None:
    failure = refusal_of(replace(GOOD, prompt_token_ids=prompt), SPEC)
    assert failure is not None
    assert failure.reason is reason


@pytest.mark.parametrize(("options", "reason"), OPTIONS, ids=str)
def test_an_option_that_no_step_can_honour_is_refused(
    options: dict[str, object], reason: Reason
) -> None:
    changed = replace(PLAIN, **options)  # type: ignore[arg-type]
    failure = refusal_of(replace(GOOD, sampling=changed), SPEC)
    assert failure is not None
    assert failure.reason is reason


@pytest.mark.parametrize(
    "handoff",
    [{"num_held_tokens": 5}, {"num_held_tokens": -1}, {"max_item_tokens": 0}],
    ids=str,
)
def test_a_hand_off_that_cannot_be_is_decodes_fault(handoff: dict[str, int]) -> None:
    failure = refusal_of(replace(GOOD, **handoff), SPEC)  # type: ignore[arg-type]
    assert failure is not None
    assert failure.reason is Reason.INTERNAL


def test_the_largest_of_everything_passes() -> None:
    assert refusal_of(GOOD, SPEC) is None
    whole = replace(GOOD, sampling=EVERYTHING, num_held_tokens=4, max_item_tokens=1)
    assert refusal_of(whole, SPEC) is None
