"""Fields of a line in a file of prompts: equal to the same request through the client."""

from typing import Any

import pytest

from cli.batch.fields import SAMPLING_KEYS
from pdserve.v1 import inference_pb2
from tests.integration.support.batch_command import Bench
from tests.integration.support.router_stack import MODEL

# a sampling field -> its value in a line -> the same in a message
FIELDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "temperature": (0.5, {"temperature": 0.5}),
    "max_tokens": (3, {"max_tokens": 3}),
    "stop": ("c", {"stop": ["c"]}),
    "stop_token_ids": ([9, 8], {"stop_token_ids": [9, 8]}),
    "ignore_eos": (True, {"ignore_eos": True}),
    "top_k": (7, {"top_k": 7}),
    "top_p": (0.25, {"top_p": 0.25}),
    "min_p": (0.125, {"min_p": 0.125}),
    "repetition_penalty": (1.5, {"repetition_penalty": 1.5}),
    "presence_penalty": (-0.5, {"presence_penalty": -0.5}),
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5}),
    "logit_bias": ({"5": 1}, {"logit_bias": {5: 1.0}}),
    "min_tokens": (2, {"min_tokens": 2}),
    "logprobs": (0, {"logprobs": 0}),
    "prompt_logprobs": (2, {"prompt_logprobs": 2}),
    "structured_output": ({"regex": "a+"}, {"structured_output": {"regex": "a+"}}),
    "bad_words": ("b", {"bad_words": ["b"]}),
    "allowed_token_ids": ([98, 99], {"allowed_token_ids": [98, 99]}),
    "n": (2, {"n": 2}),
    "no_top_k": (True, {"no_top_k": True}),
    "no_min_p": (True, {"no_min_p": True}),
    "seed": (8, {"seed": 8}),
}


def test_every_sampling_field_of_the_api_is_tested_here() -> None:
    assert set(FIELDS) == SAMPLING_KEYS


@pytest.mark.parametrize("name", FIELDS)
def test_a_sampling_field_of_a_line_means_what_the_client_says_by_it(
    bench: Bench, name: str
) -> None:
    value, said = FIELDS[name]
    both: dict[str, Any] = {"seed": 7, "max_tokens": 9}
    printed = bench.run({"prompt": "abcd", "raw": True} | both | {name: value})
    assert printed.code == 0, printed.out
    by_line = bench.last()
    sampling = inference_pb2.SamplingParams(**(both | said))
    text = bench.by_client(inference_pb2.GenerateRequest(text="abcd", sampling=sampling))
    assert by_line == bench.last()
    assert "".join(line["text"] for line in printed.lines) == text


def test_what_goes_beside_sampling_is_sent_too(bench: Bench) -> None:
    beside: dict[str, Any] = {"cache_salt": "s", "priority": -3, "model": MODEL}
    printed = bench.run({"token_ids": [97, 98], "request_id": "r", "seed": 7, **beside})
    by_line = bench.last()
    request = inference_pb2.GenerateRequest(request_id="r2", **beside)
    request.tokens.token_ids.extend([97, 98])
    request.sampling.seed = 7
    bench.by_client(request)
    assert by_line == bench.last()
    assert (by_line.priority, by_line.prompt_token_ids) == (-3, (97, 98))
    (line,) = printed.lines
    assert (line["request_id"], line["line"], line["text"]) == ("r", 1, "ab")


def test_a_chat_and_the_name_of_another_model_reach_the_router(bench: Bench) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    printed = bench.run({"messages": turns, "seed": 7}, {"prompt": "x", "model": "other"})
    by_line = bench.last()
    chat = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(**turn) for turn in turns])
    sampling = inference_pb2.SamplingParams(seed=7)
    bench.by_client(inference_pb2.GenerateRequest(chat=chat, sampling=sampling))
    assert by_line.prompt_token_ids == bench.last().prompt_token_ids
    errors = [line["error"]["reason"] for line in printed.lines if "error" in line]
    assert (printed.code, errors) == (1, ["MODEL_NOT_FOUND"])
