"""/v1/responses: single turns, their items and events, over scripted workers."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.support.openai_chats import HERMES, prompt_of, saying
from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.router_stack import MODEL
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import write_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the fixtures

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def respond(api: OpenAiStack, **options: Any) -> Any:
    create: Any = api.client.responses.create
    return await create(**({"model": MODEL, "input": "hello"} | options))


async def test_a_text_is_an_item_with_its_counts(api: OpenAiStack, worker: ScriptedWorker) -> None:
    response = await respond(api, instructions="be kind")
    assert response.output_text == "system\nbe kind\nuser\nhello\nassistant\n"
    assert (response.status, response.object, response.model) == ("completed", "response", MODEL)
    assert [item.type for item in response.output] == ["message"]
    assert response.usage.total_tokens == 2 * response.usage.input_tokens
    assert prompt_of(worker).startswith("<|im_start|>system\nbe kind<|im_end|>\n")


async def test_events_tell_the_same_in_their_order(api: OpenAiStack) -> None:
    whole = await respond(api)
    events = [event async for event in await respond(api, stream=True)]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage


async def test_an_answer_that_is_cut_is_incomplete(api: OpenAiStack) -> None:
    response = await respond(api, max_output_tokens=4)
    assert (response.status, response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert (response.output_text, response.output[0].status) == ("use", "incomplete")
    *_, last = [event async for event in await respond(api, max_output_tokens=4, stream=True)]
    assert last.type == "response.incomplete"


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_and_calls_are_items_of_their_own(tmp_path: Path, stream: bool) -> None:
    call = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})
    worker = saying(f"<think>hm</think>Look:<tool_call>{call}</tool_call>")
    async with openai_serving(write_folder(tmp_path, chat_template=HERMES), worker) as api:
        response = await respond(api, tools=[WEATHER], stream=stream)
        if stream:
            *_, last = [event async for event in response]
            response = last.response
    thoughts, text, called = response.output
    assert (thoughts.type, thoughts.content[0].text) == ("reasoning", "hm")
    assert (text.type, text.content[0].text) == ("message", "Look:")
    assert (called.type, called.name) == ("function_call", "weather")
    assert json.loads(called.arguments) == {"city": "Oslo"}


async def test_a_conversation_with_calls_reaches_the_template(tmp_path: Path) -> None:
    worker = saying("warm")
    turns: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city": "Oslo"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": "20 C"},
    ]
    async with openai_serving(write_folder(tmp_path, chat_template=HERMES), worker) as api:
        assert (await respond(api, input=turns)).output_text == "warm"
    assert "assistant\n<tool_call>Oslo</tool_call><|im_end|>" in prompt_of(worker)
    assert "tool\n20 C<|im_end|>" in prompt_of(worker)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
async def test_a_call_may_be_forced(tmp_path: Path, choice: Any) -> None:
    worker = saying('[{"name": "weather", "arguments": {"city": "Oslo"}}]')
    async with openai_serving(write_folder(tmp_path), worker) as api:
        response = await respond(api, tools=[WEATHER], tool_choice=choice)
    (call,) = response.output
    assert (call.name, call.arguments) == ("weather", '{"city": "Oslo"}')


async def test_a_form_of_the_text_reaches_the_worker(
    api: OpenAiStack, worker: ScriptedWorker
) -> None:
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    await respond(api, text={"format": form}, temperature=0.5)
    sampling = worker.requests[-1].sampling
    assert sampling.grammar is not None
    assert json.loads(sampling.grammar.texts[0]) == {"type": "object"}
    assert sampling.temperature == 0.5


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"extra_body": {"foo": 1}}, "foo"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    api: OpenAiStack, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        await respond(api, **options)
    assert str(refusal.value.param).startswith(field)
