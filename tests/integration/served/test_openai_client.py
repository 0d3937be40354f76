"""Official `openai` client against a real deployment: 1 prefill and 1 decode worker."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import jsonschema
import openai
import pytest
from openai import AsyncOpenAI

from tests.integration.support.markdown_blocks import blocks
from tests.integration.support.openai_deployment import MODEL, Both
from tests.integration.support.processes import Served
from tests.patience import WITHIN_S

README_URL = "http://127.0.0.1:8000/v1"
CAPITAL = "What is the capital of France?"
ONCE = "Once upon a time"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "size": {"enum": ["big", "small"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def both(served: Served) -> Both:
    return Both(served)


def text_of(parts: Any) -> str:
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


def test_the_served_model_is_listed(both: Both) -> None:
    assert [model.id for model in both.api.models.list()] == [MODEL]
    assert both.api.models.retrieve(MODEL).id == MODEL


def test_a_chat_says_what_it_says_over_pdserve_v1_and_again(both: Both) -> None:
    expected = both.ask([("user", CAPITAL)]).text
    answers = [both.chat(CAPITAL).choices[0] for _ in range(2)]
    assert [answer.message.content for answer in answers] == [expected] * 2
    assert (answers[0].message.role, answers[0].finish_reason) == ("assistant", "stop")


def test_a_streamed_chat_gives_the_role_the_text_and_the_reason(both: Both) -> None:
    first, *parts, last = both.chat(CAPITAL, stream=True)
    assert first.choices[0].delta.role == "assistant"
    assert text_of(parts) == both.ask([("user", CAPITAL)]).text
    assert last.choices[0].finish_reason == "stop"


def test_a_completion_says_what_it_says_over_pdserve_v1(both: Both) -> None:
    assert both.complete(ONCE).choices[0].text == both.ask(ONCE).text


def test_a_streamed_completion_is_the_same_text(both: Both) -> None:
    parts = list(both.complete(ONCE, stream=True))
    assert "".join(part.choices[0].text for part in parts) == both.ask(ONCE).text
    assert parts[-1].choices[0].finish_reason == "length"


def test_usage_counts_what_pdserve_v1_counts(both: Both) -> None:
    usage, expected = both.chat(CAPITAL).usage, both.ask([("user", CAPITAL)]).usage
    assert usage.prompt_tokens == expected.prompt_tokens
    assert usage.completion_tokens == expected.completion_tokens
    assert usage.total_tokens == expected.prompt_tokens + expected.completion_tokens


def test_a_stream_ends_with_usage_if_asked_to(both: Both) -> None:
    *parts, last = both.chat(CAPITAL, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], both.chat(CAPITAL).usage)
    assert all(part.usage is None for part in parts)


def test_a_long_prompt_that_is_repeated_comes_from_the_cache(both: Both) -> None:
    prompt = "A prompt that nobody else sends. " * 40
    first, second = (both.chat(prompt, max_tokens=2).usage for _ in range(2))
    assert first.prompt_tokens_details.cached_tokens < 100 < first.prompt_tokens - 16
    assert second.prompt_tokens_details.cached_tokens >= first.prompt_tokens - 16


def test_a_stop_text_ends_the_answer_and_is_not_in_it(both: Both) -> None:
    choice = both.chat(CAPITAL, stop="France").choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The capital of ", "stop")


def test_the_first_of_several_stop_texts_ends_a_stream(both: Both) -> None:
    parts = list(both.chat(CAPITAL, stop=["Paris", "is"], stream=True))
    assert text_of(parts) == "The capital of France "
    assert parts[-1].choices[0].finish_reason == "stop"


def test_a_stop_token_ends_the_answer(both: Both) -> None:
    token_of = 282  # " of" in SmolLM2's vocabulary
    choice = both.chat(CAPITAL, extra_body={"stop_token_ids": [token_of]}).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The capital", "stop")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_the_answer(both: Both, name: str) -> None:
    limit: dict[str, Any] = {"max_tokens": openai.omit, name: 3}
    answer = both.chat(CAPITAL, **limit)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)


def test_a_seed_repeats_the_answer_and_another_does_not(both: Both) -> None:
    hot = {"temperature": 1.5, "max_tokens": 24}
    texts = [both.complete(ONCE, seed=seed, **hot).choices[0].text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] == both.ask(ONCE, seed=7, **hot).text


@pytest.mark.parametrize("narrow", [{"top_p": 1e-6}, {"extra_body": {"top_k": 1}}])
def test_a_narrow_choice_is_the_likeliest_at_any_temperature(
    both: Both, narrow: dict[str, Any]
) -> None:
    answer = both.chat(CAPITAL, temperature=2, **narrow)
    assert answer.choices[0].message.content == both.chat(CAPITAL).choices[0].message.content


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_a_penalty_changes_the_answer_as_over_pdserve_v1(both: Both, name: str) -> None:
    prompt = "one two one two one two one"
    plain, fined = both.complete(prompt), both.complete(prompt, **{name: 2.0})
    assert fined.choices[0].text == both.ask(prompt, **{name: 2.0}).text
    assert fined.choices[0].text != plain.choices[0].text


def test_several_choices_differ_and_come_back_under_their_index(both: Both) -> None:
    answer = both.complete(ONCE, n=3, seed=5, temperature=1.5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) == 3
    assert answer.usage.completion_tokens > 16


def test_several_prompts_are_answered_in_their_order(both: Both) -> None:
    answer = both.complete([ONCE, "The capital of France is"], max_tokens=4)
    texts = [choice.text for choice in answer.choices]
    assert texts == [both.ask(p, max_tokens=4).text for p in (ONCE, "The capital of France is")]


def test_log_probabilities_name_the_likeliest_tokens(both: Both) -> None:
    content = both.chat(CAPITAL, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert "".join(place.token for place in content) == both.ask([("user", CAPITAL)]).text
    for place in content:  # greedy: the chosen token is the first of the likeliest
        assert len(place.top_logprobs) == 3
        assert place.logprob == place.top_logprobs[0].logprob <= 0


def test_an_answer_keeps_to_a_json_schema(both: Both) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    answer = both.chat(CAPITAL, response_format=form, max_tokens=80)
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)


def test_an_answer_is_a_json_object_if_asked_to(both: Both) -> None:
    answer = both.chat(CAPITAL, response_format={"type": "json_object"}, max_tokens=200)
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_an_answer_keeps_to_a_regular_expression(both: Both) -> None:
    answer = both.chat(
        "How many?", extra_body={"structured_outputs": {"regex": "[0-9]{3} (apples|pears)"}}
    )
    number, fruit = answer.choices[0].message.content.split()
    assert (len(number), number.isdigit(), fruit in ("apples", "pears")) == (3, True, True)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "look_up"}}]
)
def test_a_tool_that_must_be_called_gets_arguments_of_its_schema(both: Both, choice: Any) -> None:
    answer = both.chat(CAPITAL, tools=[TOOL], tool_choice=choice, max_tokens=80).choices[0]
    (call,) = answer.message.tool_calls
    assert (answer.finish_reason, call.function.name) == ("tool_calls", "look_up")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


@pytest.mark.parametrize(
    "turns",
    [
        [("system", "You are a pirate."), ("user", "Who are you?")],
        [("user", "My name is Ada."), ("assistant", "Hello, Ada."), ("user", "What is my name?")],
        [("user", "Schreibe: Grüße, 🌍 und 日本語")],
    ],
    ids=["system message", "several turns", "unicode"],
)
def test_a_conversation_is_rendered_as_over_pdserve_v1(
    both: Both, turns: list[tuple[str, str]]
) -> None:
    messages: Any = [{"role": role, "content": content} for role, content in turns]
    expected = both.ask(turns)
    whole = both.chat(messages)
    assert whole.usage.prompt_tokens == expected.usage.prompt_tokens
    assert whole.choices[0].message.content == expected.text
    assert text_of(both.chat(messages, stream=True)) == expected.text


async def test_streams_at_once_say_what_they_say_alone(both: Both) -> None:
    prompts = [f"{number} and" for number in ("One", "Two", "Three", "Four", "Five", "Six")]
    alone = [both.ask(prompt).text for prompt in prompts]
    async with AsyncOpenAI(base_url=both.served.openai, api_key="none") as client:

        async def run(prompt: str) -> str:
            stream = await client.completions.create(
                model=MODEL, prompt=prompt, temperature=0, max_tokens=16, stream=True
            )
            return "".join([part.choices[0].text async for part in stream])

        assert await asyncio.gather(*map(run, prompts)) == alone


def test_a_stream_that_is_closed_frees_everything(both: Both) -> None:
    before = both.until_nothing_is_held()
    stream = both.complete(ONCE, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert both.until_nothing_is_held().totals.cancelled == before.totals.cancelled + 1


def test_the_curl_command_of_the_readme_works(both: Both) -> None:
    (command,) = blocks("README.md", "### With OpenAI's API", "bash")
    command = command.replace(README_URL, both.served.openai)
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    assert json.loads(result.stdout)["choices"][0]["message"]["content"]


def test_the_script_of_the_readme_streams_a_chat_and_gets_json(both: Both) -> None:
    (script,) = blocks("README.md", "### With OpenAI's API", "python")
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    script = script.replace(README_URL, both.served.openai)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    streamed, answer = result.stdout.rsplit("\n", 2)[:2]
    assert streamed
    assert isinstance(json.loads(answer)["city"], str)
