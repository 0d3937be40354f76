"""Calls and thoughts of models whose marks are special tokens, and calls that end early."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from common.messages import FinishReason, SequenceOutput, WorkRequest
from router.edge.openai.parsing import deepseek, harmony
from router.intake.tokenizer import Tokenizer
from tests.integration.support.openai_chats import HERMES, WEATHER, chat
from tests.integration.support.openai_stack import openai_serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

CALL = '{"city": "Oslo"}'
# as GPT-OSS's and DeepSeek's, as far as matters here
HARMONY = (
    "{{ tools }}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}<|start|>assistant{# <|channel|> #}"
)
DEEPSEEK = (
    "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{# <｜tool▁call▁begin｜> #}<think></think>"
)
HARMONY_ANSWER = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary "
    f"to=functions.weather <|constrain|>json<|message|>{CALL}<|call|>"
)
DEEPSEEK_MARKS = (deepseek.BEGIN, deepseek.END, deepseek.SEPARATOR, *deepseek.AROUND)
DEEPSEEK_ANSWER = f"Look.{deepseek.AROUND[0]}{deepseek.BEGIN}weather{deepseek.SEPARATOR}{CALL}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A choice as a client sees it; `deltas` are the pieces of the arguments."""

    thoughts: str
    content: str
    name: str
    deltas: list[str]
    finish_reason: str


def saying(folder: Path, text: str, reason: FinishReason = FinishReason.STOP) -> ScriptedWorker:
    """A worker that answers with the tokens of a text, one a step."""
    ids = Tokenizer(folder).encode_rendered(text)

    def say(worker: ScriptedWorker, request: WorkRequest) -> None:
        for index, token_id in enumerate(ids):
            end = reason if index == len(ids) - 1 else None
            worker.publish(SequenceOutput(request.request_id, index, (token_id,), end))

    worker = ScriptedWorker(script=say)
    worker.info = replace(worker.info, vocab_size=VOCAB_SIZE + len(harmony.MARKS))
    return worker


async def seen_of(answer: Any, *, stream: bool) -> Seen:
    """Read an answer, whole or in parts."""
    if not stream:
        (choice,) = answer.choices
        (call,) = choice.message.tool_calls
        thoughts = getattr(choice.message, "reasoning_content", "")
        function, content = call.function, choice.message.content or ""
        return Seen(thoughts, content, function.name, [function.arguments], choice.finish_reason)
    thoughts = content = name = reason = ""
    deltas: list[str] = []
    async for part in answer:
        (choice,) = part.choices
        thoughts += getattr(choice.delta, "reasoning_content", None) or ""
        content += choice.delta.content or ""
        for call in choice.delta.tool_calls or []:
            name += call.function.name or ""
            assert bool(call.function.name) == (not deltas) == bool(call.id)
            deltas.append(call.function.arguments)
        reason = choice.finish_reason or reason
    return Seen(thoughts, content, name, deltas, reason)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("template", "marks", "text", "expected"),
    [
        (HARMONY, harmony.MARKS, HARMONY_ANSWER, ("hm", "")),
        (DEEPSEEK, DEEPSEEK_MARKS, DEEPSEEK_ANSWER, ("", "Look.")),
    ],
)
async def test_marks_that_are_special_tokens_tell_calls_and_thoughts(
    tmp_path: Path,
    template: str,
    marks: tuple[str, ...],
    text: str,
    expected: tuple[str, str],
    stream: bool,
) -> None:
    folder = write_folder(tmp_path, chat_template=template, more_specials=marks)
    async with openai_serving(folder, saying(folder, text)) as api:
        seen = await seen_of(await chat(api, tools=[WEATHER], stream=stream), stream=stream)
    assert (seen.thoughts, seen.content) == expected
    assert (seen.name, seen.finish_reason) == ("weather", "tool_calls")
    # the first delta has the name, the others the arguments as their tokens come
    assert seen.deltas == (["", *CALL] if stream else [CALL])


async def test_marks_stay_hidden_in_what_is_no_chat(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, chat_template=HARMONY, more_specials=harmony.MARKS)
    async with openai_serving(folder, saying(folder, HARMONY_ANSWER)) as api:
        create: Any = api.client.completions.create
        answer = await create(model="tiny", prompt="hello", max_tokens=200)
    expected = f"analysishmassistantcommentary to=functions.weather json{CALL}"
    assert answer.choices[0].text == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "stop", "finish_reason"),
    [
        (FinishReason.LENGTH, None, "length"),
        (FinishReason.STOP, "sl", "stop"),
        (FinishReason.STOP, "\n</", "tool_calls"),
    ],
)
async def test_a_call_that_was_cut_off_has_the_arguments_that_came(
    tmp_path: Path, reason: FinishReason, stop: str | None, finish_reason: str, stream: bool
) -> None:
    folder = write_folder(tmp_path, chat_template=HERMES)
    cut = f'<tool_call>\n{{"name": "weather", "arguments": {CALL}'
    text = cut[:-3] if finish_reason == "length" else f"{cut}}}\n</tool_call>"
    async with openai_serving(folder, saying(folder, text, reason)) as api:
        answer = await chat(api, tools=[WEATHER], stream=stream, stop=stop)
        seen = await seen_of(answer, stream=stream)
    expected = {"length": CALL[:-3], "stop": '{"city": "O', "tool_calls": CALL}[finish_reason]
    assert ("".join(seen.deltas), seen.finish_reason) == (expected, finish_reason)
