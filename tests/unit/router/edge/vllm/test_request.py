"""Tests that every field of vLLM's contract is honoured or refused by name; new fields fail."""

import json
from typing import Any

import pytest
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2
from router.edge.vllm.request import REQUEST_FIELDS, SAMPLING_FIELDS, in_vllm_terms, to_pdserve
from router.intake.generation_config import NO_DEFAULTS, SamplingDefaults

JSON_SCHEMA = '{"type": "string"}'
# a field -> what it is set to -> what pdserve.v1's sampling has then
HONOURED: dict[str, tuple[object, dict[str, Any]]] = {
    "temperature": (0.5, {"temperature": 0.5}),
    "top_p": (0.5, {"top_p": 0.5}),
    "top_k": (7, {"top_k": 7, "no_top_k": False}),
    "min_p": (0.25, {"min_p": 0.25, "no_min_p": False}),
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5}),
    "presence_penalty": (-0.5, {"presence_penalty": -0.5}),
    "repetition_penalty": (1.5, {"repetition_penalty": 1.5}),
    "max_tokens": (9, {"max_tokens": 9}),
    "min_tokens": (3, {"min_tokens": 3}),
    "stop_token_ids": ([4, 5], {"stop_token_ids": [4, 5]}),
    "ignore_eos": (True, {"ignore_eos": True}),
    "n": (2, {"n": 2}),
    "json_schema": (JSON_SCHEMA, {"structured_output": {"json_schema": JSON_SCHEMA}}),
    "regex": ("a+", {"structured_output": {"regex": "a+"}}),
    "grammar": ("start: A", {"structured_output": {"grammar": "start: A"}}),
    "json_object": (True, {"structured_output": {"json_schema": '{"type": "object"}'}}),
    "choice": ({"choices": ["a", "b"]}, {"structured_output": {"choice": {"texts": ["a", "b"]}}}),
    "logprobs": (0, {"logprobs": 0}),
    "prompt_logprobs": (2, {"prompt_logprobs": 2}),
    "seed": (-1, {"seed": 2**64 - 1}),
    "logit_bias": ({3: 1.5}, {"logit_bias": {3: 1.5}}),
}
# they shape text; only tokens are returned, which are the same either way
NO_EFFECT = {
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "grammar_from_first_token",
}
REFUSED_SAMPLING: dict[str, object] = {"truncate_prompt_tokens": 5, "structural_tag": "{}"}
REFUSED: dict[str, object] = {
    "kv_transfer_params": {"remote_host": "h"},
    "kv_transfer_params_json": "{}",
    "mm_inputs": {"mm_hashes": ["h"]},
    "extra_mm_inputs": [{"mm_hashes": ["h"]}],
    "media_refs": {"items": [{"url": "u"}]},
    "data_parallel_rank": 1,
}
DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "n": 1,
    "no_top_k": True,
    "no_min_p": True,
}


def request(**fields: Any) -> vllm_pb2.GenerateRequest:
    return vllm_pb2.GenerateRequest(request_id="r", text="hello", **fields)


def sampled(**fields: Any) -> inference_pb2.SamplingParams:
    return to_pdserve(
        request(sampling_params=vllm_pb2.SamplingParams(**fields)), NO_DEFAULTS
    ).sampling


def names(message: type[Any]) -> set[str]:
    return set(message.DESCRIPTOR.fields_by_name)


def test_every_field_of_the_contract_was_looked_at() -> None:
    assert names(vllm_pb2.SamplingParams) == SAMPLING_FIELDS | set(REFUSED_SAMPLING)
    assert names(vllm_pb2.GenerateRequest) == REQUEST_FIELDS | set(REFUSED)
    assert set(HONOURED) | NO_EFFECT | {"stop"} == SAMPLING_FIELDS


@pytest.mark.parametrize("name", HONOURED)
def test_a_field_that_is_honoured_means_the_same_in_pdserve_v1(name: str) -> None:
    value, expected = HONOURED[name]
    assert sampled(**{name: value}) == inference_pb2.SamplingParams(**(DEFAULTS | expected))


@pytest.mark.parametrize("name", sorted(NO_EFFECT))
def test_a_field_that_shapes_text_changes_nothing(name: str) -> None:
    assert sampled(**{name: True}) == inference_pb2.SamplingParams(**DEFAULTS)


@pytest.mark.parametrize("name", REFUSED_SAMPLING)
def test_a_sampling_field_that_is_not_honoured_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        sampled(**{name: REFUSED_SAMPLING[name]})
    assert refusal.value.field == f"sampling_params.{name}"


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_not_honoured_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        to_pdserve(request(**{name: REFUSED[name]}), NO_DEFAULTS)
    assert refusal.value.field == name


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"stop": ["x"]}, "skip_special_tokens"),
        ({"json_object": False}, "json_object"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
    ],
)
def test_a_value_that_cannot_be_honoured_is_refused_by_name(
    fields: dict[str, object], name: str
) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        sampled(**fields)
    assert refusal.value.field == f"sampling_params.{name}"


def test_stop_texts_are_found_in_text_without_special_tokens() -> None:
    assert sampled(stop=["x", "y"], skip_special_tokens=True).stop == ["x", "y"]


def test_numbers_beyond_pdserve_v1_are_out_of_range_there_too() -> None:
    biggest = sampled(top_k=2**32 - 1, max_tokens=2**32 - 1, min_tokens=2**32 - 1, n=2**32 - 1)
    assert {biggest.top_k, biggest.max_tokens, biggest.min_tokens, biggest.n} == {2**31 - 1}


MODELS = SamplingDefaults(
    temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, repetition_penalty=1.5, max_tokens=9
)


def translated(defaults: SamplingDefaults, **fields: Any) -> inference_pb2.SamplingParams:
    message = request(sampling_params=vllm_pb2.SamplingParams(**fields))
    return to_pdserve(message, defaults).sampling


def test_where_a_request_is_silent_the_models_defaults_count() -> None:
    expected = inference_pb2.SamplingParams(
        temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, repetition_penalty=1.5, n=1
    )
    assert translated(MODELS) == expected


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"top_p": 1.0},
        {"top_k": 3},
        {"min_p": 0.5},
        {"repetition_penalty": 1.0},
    ],
)
def test_what_a_client_says_wins_over_the_models_defaults(said: dict[str, float]) -> None:
    found = translated(MODELS, **said)
    for name, value in said.items():
        assert getattr(found, name) == value


def test_a_zero_is_said_by_clients_that_put_the_defaults_in_themselves() -> None:
    found = translated(MODELS, top_p=0.25, repetition_penalty=1.5)
    assert (found.top_k, found.no_top_k, found.min_p, found.no_min_p) == (0, True, 0.0, True)
    assert found.temperature == 0.5  # it has presence, so its silence shows


def test_the_prompt_is_text_or_tokens() -> None:
    tokens = vllm_pb2.TokenizedInput(original_text="not looked at", input_ids=[1, 2])
    translated = to_pdserve(vllm_pb2.GenerateRequest(request_id="r", tokenized=tokens), NO_DEFAULTS)
    assert list(translated.tokens.token_ids) == [1, 2]
    assert to_pdserve(request(), NO_DEFAULTS).text == "hello"
    assert to_pdserve(request(data_parallel_rank=0), NO_DEFAULTS).request_id == "r"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("sampling.temperature", "sampling_params.temperature"),
        ("sampling.structured_output.regex", "sampling_params.regex"),
        ("tokens.token_ids", "tokenized.input_ids"),
        ("request_id", "request_id"),
        (None, None),
    ],
)
def test_an_error_names_the_field_as_the_contract_does(
    ours: str | None, theirs: str | None
) -> None:
    assert in_vllm_terms(InvalidRequestError("wrong", field=ours)).field == theirs


def test_a_json_object_is_asked_for_by_a_schema_that_is_json() -> None:
    schema = sampled(json_object=True).structured_output.json_schema
    assert json.loads(schema) == {"type": "object"}
