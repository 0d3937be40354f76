"""Files of prompts are read completely before anything is sent; errors name the line."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.batch.lines import Line, read_lines
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2
from tests.unit.cli.conftest import Run

# nobody listens there: a command that tries to send ends with code 1, not 2
NOBODY = ("--address", "127.0.0.1:1")
Sampling = inference_pb2.SamplingParams
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def call(url: str = CHAT, custom_id: object = "a", **body: object) -> dict[str, object]:
    body = ({"messages": HELLO} if url == CHAT else {"prompt": "hello"}) | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(folder: Path, *entries: object) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, entries)), "utf-8")
    return file


def read(folder: Path, *entries: object, raw: bool = False, **flags: Any) -> list[Line]:
    return read_lines(write(folder, *entries), Sampling(**flags), raw=raw)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"prompt": "x", "max_token": 5}, "unknown key 'max_token'"),
        ({"prompt": "x", "timeout": 5}, "unknown key 'timeout'"),
        ({"prompt": "x", "resumable": True}, "unknown key 'resumable'"),
        ({"prompt": "x", "messages": HELLO}, "prompt and messages exclude each other"),
        ({"max_tokens": 5}, "no prompt: give one of prompt, messages, token_ids"),
        ({"prompt": 5}, "prompt must be a text, not 5"),
        ({"prompt": "x", "raw": 1}, "raw must be true or false, not 1"),
        ({"prompt": "x", "request_id": 7}, "request_id must be a text, not 7"),
        ({"prompt": "x", "model": []}, "model must be a text, not []"),
        ({"prompt": "x", "cache_salt": 7}, "cache_salt must be a text, not 7"),
        ({"prompt": "x", "priority": "high"}, 'priority must be an integer, not "high"'),
        ({"prompt": "x", "priority": 2**40}, "range"),
        ({"token_ids": 5}, "token_ids must be a list, not 5"),
        ({"token_ids": [1.5]}, "token_ids must be an integer, not 1.5"),
        ({"messages": {}}, "messages must be a list, not {}"),
        ({"messages": ["x"]}, 'messages[0] must be an object, not "x"'),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a text, not null"),
        ({"messages": [HELLO[0] | {"name": "x"}]}, "unknown key 'messages[0].name'"),
        ({"prompt": "x", "max_tokens": "5"}, 'max_tokens must be an integer, not "5"'),
        ({"prompt": "x", "max_tokens": 5.0}, "max_tokens must be an integer, not 5.0"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens must be an integer, not true"),
        ({"prompt": "x", "max_tokens": 2**40}, "max_tokens: "),
        ({"prompt": "x", "seed": -1}, "seed: "),
        ({"prompt": "x", "temperature": "hot"}, 'temperature must be a number, not "hot"'),
        ({"prompt": "x", "temperature": False}, "temperature must be a number, not false"),
        ({"prompt": "x", "ignore_eos": 1}, "ignore_eos must be true or false, not 1"),
        ({"prompt": "x", "stop": 5}, "stop must be a list, not 5"),
        ({"prompt": "x", "stop": ["a", 5]}, "stop must be a text, not 5"),
        ({"prompt": "x", "stop_token_ids": 5}, "stop_token_ids must be a list, not 5"),
        ({"prompt": "x", "stop_token_ids": ["a"]}, "stop_token_ids must be an integer"),
        ({"prompt": "x", "logit_bias": [5]}, "logit_bias must be an object, not [5]"),
        ({"prompt": "x", "logit_bias": {"five": 1}}, "logit_bias: 'five' is no token id"),
        ({"prompt": "x", "logit_bias": {"5": "1"}}, 'logit_bias must be a number, not "1"'),
        ({"prompt": "x", "structured_output": "a+"}, "structured_output must be an object"),
        ({"prompt": "x", "structured_output": {}}, "structured_output: needs exactly one of"),
        ({"prompt": "x", "structured_output": {"regx": ""}}, "'structured_output.regx'"),
        ({"prompt": "x", "structured_output": {"regex": 5}}, "structured_output.regex must be"),
        ({"prompt": "x", "structured_output": {"choice": "a"}}, "choice must be a list"),
        (call(url="/v1/embeddings"), "url must be /v1/chat/completions or /v1/completions"),
        (call() | {"method": "GET"}, 'method must be POST, not "GET"'),
        (call() | {"priority": 5}, "unknown key 'priority'"),
        ({"custom_id": "a", "method": "POST", "url": CHAT}, "no body"),
        (call(custom_id=5), "custom_id must be a text, not 5"),
        (call(custom_id=""), "custom_id is empty"),
        (call(tools=[]), "unknown key 'body.tools'"),
        (call(prompt="x"), "unknown key 'body.prompt'"),
        (call(stream=True), "body.stream: a batch has no streams"),
        (call(max_tokens=5, max_completion_tokens=6), "max_completion_tokens differ"),
        (call(temperature="hot"), 'body: temperature must be a number, not "hot"'),
        (call(logprobs=5), "body: logprobs must be true or false, not 5"),
        (call(top_logprobs=5), "body: top_logprobs needs logprobs: true"),
        (call(response_format="json"), "body: response_format must be an object"),
        (call(response_format={"type": "xml"}), "response_format.type 'xml' is none of"),
        (
            call(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
            "response_format.json_schema.schema must be an object, not null",
        ),
        (call(messages=None), "no body.messages"),
        (
            call(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content[0].type: parts are text here",
        ),
        (call(TEXT, prompt=["x", "y"]), "body.prompt: one prompt a line"),
        (call(TEXT, prompt=5), "body.prompt must be a list, not 5"),
        (call(TEXT, best_of=2), "unknown key 'body.best_of'"),
        (call(TEXT, logprobs=True), "body: logprobs must be an integer, not true"),
    ],
)
def test_a_wrong_line_is_named_with_its_number_and_key_and_nothing_is_sent(
    run: Run, tmp_path: Path, entry: object, words: str
) -> None:
    file = write(tmp_path, {"prompt": "fine"}, entry)
    ended = run("generate", "--prompts-file", str(file), *NOBODY)
    assert ended.code == 2
    assert f"--prompts-file {file} line 2: " in ended.line
    assert words in ended.line
    assert not ended.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 2: "),
        ("[" * 100_000, "line 2: "),
        ('{"prompt": "x", "prompt": "y"}', "the key 'prompt' is there twice"),
        ('"x"', "not a JSON object"),
        ('{"request_id": "r", "prompt": "x"}', "request_id 'r' is that of line 1"),
    ],
)
def test_what_is_no_line_is_named_too(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"request_id": "r", "prompt": "x"}}\n{text}')
    with pytest.raises(SetupError) as refusal:
        read_lines(file, Sampling(), raw=False)
    assert words in str(refusal.value)


def test_two_answers_never_have_one_custom_id(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="line 3: custom_id 'a' is that of line 1"):
        read(tmp_path, call(), {"prompt": "x", "request_id": "a"}, call())


def test_blank_lines_count_and_a_text_may_hold_any_character(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes('\ufeff\n\r\n{"prompt": "a\u2028b\u0085c"}\r\n\n'.encode())
    (line,) = read_lines(file, Sampling(), raw=True)
    assert (line.number, line.ask.prompt) == (3, "a\u2028b\u0085c")


def test_a_prompt_is_a_chat_unless_it_is_raw(tmp_path: Path) -> None:
    entries = [{"prompt": "x"}, {"prompt": "x", "raw": True}, {"prompt": "x", "raw": False}]
    chat = [("user", "x")]
    assert [line.ask.prompt for line in read(tmp_path, *entries)] == [chat, "x", chat]
    assert [line.ask.prompt for line in read(tmp_path, *entries, raw=True)] == ["x", "x", chat]


def test_flags_count_where_a_line_is_silent_and_null_says_nothing(tmp_path: Path) -> None:
    (silent, says, null) = read(
        tmp_path,
        {"prompt": "x"},
        {"prompt": "x", "temperature": 0, "stop": ["c"], "top_k": 0, "logit_bias": {"7": 1}},
        {"prompt": "x", "temperature": None, "max_tokens": None},
        temperature=0.5,
        stop=["a", "b"],
        top_k=4,
        logit_bias={5: 2.0},
    )
    flags = Sampling(temperature=0.5, stop=["a", "b"], top_k=4, logit_bias={5: 2.0})
    assert silent.ask.sampling == null.ask.sampling == flags
    assert says.ask.sampling == Sampling(
        temperature=0.0, stop=["c"], no_top_k=True, logit_bias={7: 1.0}
    )


@pytest.mark.parametrize(
    ("flags", "said", "expected"),
    [
        ({"no_top_k": True}, {"top_k": 5}, {"top_k": 5}),
        ({"top_k": 5}, {"no_top_k": True}, {"no_top_k": True}),
        ({"min_p": 0.5}, {"min_p": 0}, {"no_min_p": True}),
        (
            {"structured_output": {"regex": "a"}},
            {"structured_output": {"choice": ["a"]}},
            {"structured_output": {"choice": {"texts": ["a"]}}},
        ),
    ],
)
def test_a_line_takes_back_what_a_flag_says(
    tmp_path: Path, flags: dict[str, Any], said: dict[str, Any], expected: dict[str, Any]
) -> None:
    (line,) = read(tmp_path, {"prompt": "x", **said}, **flags)
    assert line.ask.sampling == Sampling(**expected)


def test_a_schema_is_given_as_it_is_or_as_text(tmp_path: Path) -> None:
    schema = {"type": "string", "enum": ["é"]}
    forms = [{"json_schema": schema}, {"json_schema": json.dumps(schema)}]
    found = read(tmp_path, *({"prompt": "x", "structured_output": form} for form in forms))
    texts = [line.ask.sampling.structured_output.json_schema for line in found]
    assert [json.loads(text) for text in texts] == [schema, schema]
