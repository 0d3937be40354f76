"""Tools of /v1/chat/completions: forced calls, free ones, and histories with calls."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.messages import GrammarKind
from tests.integration.support.openai_chats import HELLO, HERMES, WEATHER, chat, prompt_of, saying
from tests.integration.support.openai_stack import openai_serving
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_forced_call_has_its_name_and_arguments(
    tmp_path: Path, choice: Any, stream: bool
) -> None:
    arguments = {"city": 'Oslo "}'}
    worker = saying(json.dumps([{"name": "weather", "arguments": arguments}]))
    async with openai_serving(write_folder(tmp_path), worker) as api:
        asked = {"tools": [WEATHER], "tool_choice": choice, "stream": stream}
        name, found, reason = await call_of(await chat(api, **asked), stream=stream)
    assert (name, json.loads(found), reason) == ("weather", arguments, "tool_calls")
    grammar = worker.requests[-1].sampling.grammar
    assert grammar is not None
    assert grammar.kind is GrammarKind.JSON_SCHEMA


async def call_of(answer: Any, *, stream: bool) -> tuple[str, str, str]:
    """Name, arguments and finish reason of an answer's only call."""
    if not stream:
        (choice,) = answer.choices
        (call,) = choice.message.tool_calls
        assert choice.message.content is None
        return call.function.name, call.function.arguments, choice.finish_reason
    name = arguments = reason = ""
    async for part in answer:
        (choice,) = part.choices
        for call in choice.delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments
        assert not choice.delta.content
        reason = choice.finish_reason or reason
    return name, arguments, reason


@pytest.mark.parametrize("stream", [False, True])
async def test_a_free_call_is_found_in_the_text(tmp_path: Path, stream: bool) -> None:
    call = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})
    worker = saying(f"<tool_call>\n{call}\n</tool_call>")
    async with openai_serving(write_folder(tmp_path, chat_template=HERMES), worker) as api:
        answer = await chat(api, tools=[WEATHER], stream=stream)
        found = await call_of(answer, stream=stream)
    assert found == ("weather", '{"city": "Oslo"}', "tool_calls")
    assert '"name": "weather"' in prompt_of(worker)


async def test_a_history_with_calls_reaches_the_template(tmp_path: Path) -> None:
    worker = saying("warm")
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    turns = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "20 C"},
    ]
    async with openai_serving(write_folder(tmp_path, chat_template=HERMES), worker) as api:
        answer = await chat(api, turns, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content == "warm"
    prompt = prompt_of(worker)
    assert "<|im_start|>assistant\n<tool_call>Oslo</tool_call><|im_end|>" in prompt
    assert "<|im_start|>tool\n20 C<|im_end|>" in prompt
    assert "<tools>" not in prompt
