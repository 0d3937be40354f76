"""Structured output of the default model, through real processes."""

import asyncio
import json
import re
from pathlib import Path

import jsonschema
import pytest

from pdserve.client import AsyncClient
from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from tests.integration.support.commands import run_here
from tests.integration.support.processes import Served
from tests.integration.support.waiting import until_nothing_is_held

Form = inference_pb2.StructuredOutput
Sampling = inference_pb2.SamplingParams
NAME = {"type": "string", "minLength": 1, "maxLength": 24}
SCHEMAS: dict[str, dict[str, object]] = {
    "person": {
        "type": "object",
        "properties": {
            "name": NAME,
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "email": {"type": "string", "pattern": "^[a-z]{1,12}@[a-z]{1,12}\\.(com|org)$"},
        },
        "required": ["name", "age", "email"],
        "additionalProperties": False,
    },
    "list": {
        "type": "array",
        "items": {"enum": ["apple", "pear", "plum", 7, None]},
        "minItems": 3,
        "maxItems": 6,
    },
    "nested": {
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/place"},
            "neighbours": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
        },
        "required": ["city", "neighbours"],
        "additionalProperties": False,
        "$defs": {
            "place": {
                "type": "object",
                "properties": {"name": NAME, "rank": {"anyOf": [{"type": "null"}, {"const": 1}]}},
                "required": ["name", "rank"],
                "additionalProperties": False,
            }
        },
    },
    "date": {
        "type": "object",
        "properties": {"day": {"type": "string", "format": "date"}},
        "required": ["day"],
        "additionalProperties": False,
    },
}
CHAT = [("user", "Tell me about somebody you know, as JSON.")]
BAD = {
    "schema syntax": (Form(json_schema="{"), "json_schema"),
    "unsupported keyword": (Form(json_schema='{"not": {"type": "null"}}'), "json_schema"),
    "slow schema": (Form(json_schema='{"type": "integer", "multipleOf": 999983}'), "json_schema"),
    "regex syntax": (Form(regex="(a"), "regex"),
    "exponential regex": (Form(regex="(a{1000}){1000}"), "regex"),
    "huge regex": (Form(regex="|".join(f"{i:x}" for i in range(25_000))), "regex"),
    "beyond the size": (Form(regex="a" * 200_000), "regex"),
    "deep grammar": (
        Form(
            grammar="start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(7000)) + 'r7000: "a"'
        ),
        "grammar",
    ),
    "no choice": (Form(choice=inference_pb2.Choice()), "choice"),
}


async def answer(client: AsyncClient, sampling: Sampling) -> tuple[str, int]:
    text = ""
    async for response in client.stream(CHAT, sampling):
        text += response.text
    return text, response.finished.reason


async def answer_all(address: str, samplings: list[Sampling]) -> list[tuple[str, int]]:
    async with AsyncClient(address) as client:
        answers = await asyncio.gather(*(answer(client, sampling) for sampling in samplings))
        await until_nothing_is_held(client)
    return answers


async def test_every_answer_is_valid(served: Served) -> None:
    def samplings() -> list[Sampling]:
        return [
            Sampling(
                structured_output=Form(json_schema=json.dumps(schema)),
                max_tokens=300,
                temperature=temperature,
                seed=5,
            )
            for schema in SCHEMAS.values()
            for temperature in (0.0, 0.9)
        ]

    together = await answer_all(served.grpc, samplings())
    for (text, reason), schema in zip(
        together, [schema for schema in SCHEMAS.values() for _ in range(2)], strict=True
    ):
        assert reason == inference_pb2.FINISH_REASON_STOP, text
        jsonschema.validate(json.loads(text), schema)
    assert len({text for text, _ in together}) == len(together)


async def test_regex_grammar_and_choice_are_kept_to_the_letter(served: Served) -> None:
    forms = {
        "[A-Z][a-z]{2,10}, [12][0-9]{3}\\.": Form(regex="[A-Z][a-z]{2,10}, [12][0-9]{3}\\."),
        "yes|no|née 😀": Form(choice=inference_pb2.Choice(texts=["yes", "no", "née 😀"])),
        "(\\[x+\\]){2}": Form(grammar='start: item item\nitem: "[" "x"+ "]"'),
        "[a-c]{1,5}": Form(regex="[a-c]{1,5}"),
    }
    samplings = [
        Sampling(structured_output=form, max_tokens=200, temperature=temperature, seed=3)
        for form in forms.values()
        for temperature in (0.0, 1.0)
    ]
    patterns = [pattern for pattern in forms for _ in range(2)]
    for (text, _), pattern in zip(await answer_all(served.grpc, samplings), patterns, strict=True):
        assert re.fullmatch(pattern, text), (pattern, text)


async def test_an_answer_that_is_cut_is_the_beginning_of_one(served: Served) -> None:
    form = Form(json_schema=json.dumps(SCHEMAS["person"]))
    whole, cut = await answer_all(
        served.grpc,
        [Sampling(structured_output=form, max_tokens=number) for number in (300, 8)],
    )
    assert cut[1] == inference_pb2.FINISH_REASON_LENGTH
    assert cut[0]
    assert whole[0].startswith(cut[0])


@pytest.mark.parametrize("name", BAD)
async def test_bad_forms_are_refused_while_others_stream(served: Served, name: str) -> None:
    form, field = BAD[name]
    async with AsyncClient(served.grpc) as client:
        endless = client.stream(CHAT, Sampling(max_tokens=400, ignore_eos=True))
        await anext(endless)
        with pytest.raises(InvalidRequestError) as caught:
            await answer(client, Sampling(structured_output=form))
        assert caught.value.reason is Reason.INVALID_FIELD
        assert caught.value.field == f"sampling.structured_output.{field}"
        assert await anext(endless), "the stream goes on"
        await endless.aclose()
        status = await until_nothing_is_held(client)
    assert {worker.state for worker in status.workers} == {1}


def test_generate_prints_what_was_asked_for(served: Served, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "person.json", tmp_path / "ab.lark"
    schema.write_text(json.dumps(SCHEMAS["person"]))
    grammar.write_text('start: "a" start | "b"')
    common = ("generate", "Describe a person.", "--address", served.grpc, "--max-tokens", "200")
    result = run_here(*common, "--schema", str(schema))
    assert result.returncode == 0, result.stderr
    jsonschema.validate(json.loads(result.stdout), SCHEMAS["person"])
    assert re.fullmatch("[0-9]{3}", run_here(*common, "--regex", "[0-9]{3}").stdout.strip())
    assert re.fullmatch("a*b", run_here(*common, "--grammar", str(grammar)).stdout.strip())
    chosen = run_here(*common, "--choice", "red", "--choice", "green").stdout.strip()
    assert chosen in ("red", "green")


def test_generate_refuses_forms_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    for options, expected in (
        (("--regex", "a", "--choice", "b"), "--regex and --choice exclude each other"),
        (("--schema", str(tmp_path / "none.json")), "--schema"),
        (("--grammar", str(tmp_path / "bytes")), "--grammar"),
    ):
        result = run_here("generate", "hello", *options)
        assert result.returncode == 2
        (line,) = result.stderr.strip().splitlines()
        assert expected in line
