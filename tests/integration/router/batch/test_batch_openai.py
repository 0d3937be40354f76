"""Lines of OpenAI's batch form: the meaning of their bodies, and the form of their answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from common.messages import FinishReason, SequenceOutput, TokenLogprobs, WorkRequest
from pdserve.v1 import inference_pb2
from tests.integration.support.batch_command import CHAT, TEXT, Bench, CommandLine, benching, call
from tests.integration.support.router_stack import MODEL
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

SCHEMA = {"type": "string"}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
# a field of a body -> the endpoints that have it -> the same in pdserve.v1
BODIES: list[tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]] = [
    ({"max_tokens": 3}, (CHAT, TEXT), {"max_tokens": 3}),
    ({"max_completion_tokens": 3}, (CHAT,), {"max_tokens": 3}),
    ({"temperature": 0}, (CHAT, TEXT), {"temperature": 0.0}),
    ({}, (CHAT, TEXT), {"temperature": 1.0}),
    ({"temperature": None, "user": "u"}, (CHAT, TEXT), {"temperature": 1.0}),
    ({"top_p": 0.25}, (CHAT, TEXT), {"top_p": 0.25}),
    ({"n": 2}, (CHAT, TEXT), {"n": 2}),
    ({"stop": "c"}, (CHAT, TEXT), {"stop": ["c"]}),
    ({"stop": ["c", "d"]}, (CHAT, TEXT), {"stop": ["c", "d"]}),
    ({"seed": -1}, (CHAT, TEXT), {"seed": 2**64 - 1}),
    ({"presence_penalty": 1}, (CHAT, TEXT), {"presence_penalty": 1.0}),
    ({"frequency_penalty": 1}, (CHAT, TEXT), {"frequency_penalty": 1.0}),
    ({"logit_bias": {"5": -100}}, (CHAT, TEXT), {"logit_bias": {5: -100.0}}),
    ({"logprobs": True}, (CHAT,), {"logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 2}, (CHAT,), {"logprobs": 2}),
    ({"logprobs": False}, (CHAT,), {}),
    ({"logprobs": 2}, (TEXT,), {"logprobs": 2}),
    ({"response_format": FORM}, (CHAT, TEXT), {"structured_output": {"json_schema": "SCHEMA"}}),
    ({"response_format": {"type": "text"}}, (CHAT, TEXT), {}),
    ({"top_k": -1, "min_p": 0}, (CHAT,), {"no_top_k": True, "no_min_p": True}),
    ({"top_k": 3, "min_p": 0.5, "ignore_eos": True}, (CHAT,), {"top_k": 3, "min_p": 0.5}),
    ({"repetition_penalty": 1.5, "min_tokens": 1}, (TEXT,), {"repetition_penalty": 1.5}),
    ({"bad_words": "b"}, (CHAT, TEXT), {"bad_words": ["b"]}),
    ({"allowed_token_ids": [98]}, (CHAT, TEXT), {"allowed_token_ids": [98]}),
]


@pytest.mark.parametrize(("body", "urls", "said"), BODIES)
def test_a_field_of_openais_body_means_what_the_client_says_by_it(
    bench: Bench, body: dict[str, Any], urls: tuple[str, ...], said: dict[str, Any]
) -> None:
    said = {"temperature": 1.0, "seed": 7} | said
    said |= {name: body[name] for name in ("ignore_eos", "min_tokens") if name in body}
    if "structured_output" in said:
        said["structured_output"] = {"json_schema": json.dumps(SCHEMA)}
    for url in urls:
        printed = bench.run(call(url, **body))
        assert printed.code == 0, printed.out
        by_line = bench.last()
        request = inference_pb2.GenerateRequest(sampling=inference_pb2.SamplingParams(**said))
        if url == CHAT:
            request.chat.messages.add(role="user", content="abcd")
        else:
            request.text = "abcd"
        text = bench.by_client(request)
        assert by_line == bench.last()
        (answer,) = printed.lines
        choices = answer["response"]["body"]["choices"]
        texts = [c["message"]["content"] if url == CHAT else c["text"] for c in choices]
        assert "".join(texts) == text


def test_prompts_of_a_completion_may_be_tokens_and_roles_have_openais_names(bench: Bench) -> None:
    tokens = call(TEXT, prompt=[97, 98])
    one = call(TEXT, "b", prompt=["ab"])
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turn = call(CHAT, "c", messages=[{"role": "developer", "content": parts}])
    bench.run(tokens, one, turn, flags=("--concurrency", "1"))
    first, second, third = (request.prompt_token_ids for request in bench.worker.requests)
    assert first == second == (97, 98)
    assert b"system\nab" in bytes(token for token in third if token < 256)


@pytest.mark.parametrize("url", [CHAT, TEXT])
def test_an_answer_has_openais_form(bench: Bench, url: str) -> None:
    (line,) = bench.run(call(url, "mine", max_tokens=2, n=2), flags=()).lines
    assert (line["custom_id"], line["error"]) == ("mine", None)
    response = line["response"]
    assert response["status_code"] == 200
    assert line["id"] == f"batch_req_{response['request_id']}"
    kind = ChatCompletion if url == CHAT else Completion
    found = kind.model_validate(response["body"])
    assert (found.model, [choice.finish_reason for choice in found.choices]) == (
        MODEL,
        ["length"] * 2,
    )
    assert found.usage is not None
    num_prompt = len(bench.worker.requests[-1].prompt_token_ids)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (num_prompt, 4)
    assert found.usage.total_tokens == num_prompt + 4


def test_logprobs_have_openais_form_with_tokens_by_number(bench: Bench) -> None:
    def speak(worker: ScriptedWorker, request: WorkRequest) -> None:
        entry = TokenLogprobs(-1.0, (9, 97), (-0.5, -1.0))
        last = FinishReason.STOP
        worker.publish(SequenceOutput(request.request_id, 0, (97,), last, logprobs=(entry,)))

    bench.worker._script = speak
    chat, text = bench.run(
        call(CHAT, logprobs=True, top_logprobs=2),
        call(TEXT, "b", logprobs=2),
        flags=("--ordered",),
    ).lines
    by_chat = ChatCompletion.model_validate(chat["response"]["body"]).choices[0].logprobs
    assert by_chat is not None
    assert by_chat.content is not None
    (token,) = by_chat.content
    assert (token.token, token.logprob) == ("token_id:97", -1.0)
    assert [(top.token, top.logprob) for top in token.top_logprobs] == [
        ("token_id:9", -0.5),
        ("token_id:97", -1.0),
    ]
    by_text = Completion.model_validate(text["response"]["body"]).choices[0].logprobs
    assert by_text is not None
    assert (by_text.tokens, by_text.token_logprobs) == (["token_id:97"], [-1.0])
    assert by_text.top_logprobs == [{"token_id:9": -0.5, "token_id:97": -1.0}]


@pytest.mark.parametrize("model_says", [None, 0.25])
def test_openais_lines_are_silent_about_temperature_as_its_api_is(
    tmp_path: Path, command_line: CommandLine, model_says: float | None
) -> None:
    model_dir, worker = write_folder(tmp_path / "model"), ScriptedWorker(script=echo)
    if model_says is not None:
        content = json.dumps({"temperature": model_says})
        (model_dir / "generation_config.json").write_text(content)
    with benching(model_dir, worker, command_line) as bench:
        bench.run(call(CHAT))
        assert bench.last().sampling.temperature == (1.0 if model_says is None else model_says)
        bench.run({"prompt": "x"})
        assert bench.last().sampling.temperature == (model_says or 0.0)
        bench.run(call(CHAT), flags=("--temperature", "0"))
        assert bench.last().sampling.temperature == 0.0
