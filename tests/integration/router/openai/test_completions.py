"""/v1/completions, over a worker that says the prompt again."""

from pathlib import Path
from typing import Any

import openai
import pytest

from common.messages import FinishReason, SequenceOutput, TokenLogprobs, WorkRequest
from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.router_stack import MODEL
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import IM_END, write_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the fixtures

TEXT = "héllo, 🌍"
LONG = 64


async def complete(api: OpenAiStack, prompt: Any = TEXT, **options: Any) -> Any:
    create: Any = api.client.completions.create
    return await create(**({"model": MODEL, "prompt": prompt, "max_tokens": LONG} | options))


async def test_an_answer_is_the_text_and_its_counts(api: OpenAiStack) -> None:
    answer = await complete(api)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (TEXT, "stop")
    number = len(TEXT.encode())
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (number, number)
    assert (answer.object, answer.model) == ("text_completion", MODEL)


async def test_a_stream_is_the_same_text_and_ends_with_its_reason(api: OpenAiStack) -> None:
    parts = [part async for part in await complete(api, stream=True)]
    assert "".join(part.choices[0].text for part in parts) == TEXT
    assert [part.choices[0].finish_reason for part in parts][-2:] == [None, "stop"]
    assert not any("\ufffd" in part.choices[0].text for part in parts)


async def test_without_max_tokens_there_are_16(api: OpenAiStack) -> None:
    answer = await complete(api, "x" * 40, max_tokens=openai.omit)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("x" * 16, "length")


async def test_prompts_are_answered_in_their_order_and_each_as_often_as_asked(
    api: OpenAiStack,
) -> None:
    answer = await complete(api, ["a", "bb"], n=2)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a"), (1, "a"), (2, "bb"), (3, "bb")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)
    parts = [part async for part in await complete(api, ["a", "bb"], n=2, stream=True)]
    texts = dict.fromkeys(range(4), "")
    for part in parts:
        texts[part.choices[0].index] += part.choices[0].text
    assert [*texts.values()] == ["a", "a", "bb", "bb"]


@pytest.mark.parametrize("prompt", [[104, 105], [[104, 105]]])
async def test_a_prompt_may_be_tokens(api: OpenAiStack, prompt: Any) -> None:
    assert (await complete(api, prompt)).choices[0].text == "hi"


@pytest.mark.parametrize("prompt", ["hi", [104, 105]])
async def test_echo_puts_the_prompt_before_the_answer(api: OpenAiStack, prompt: Any) -> None:
    assert (await complete(api, prompt, echo=True)).choices[0].text == "hihi"
    parts = [part async for part in await complete(api, prompt, echo=True, stream=True)]
    assert "".join(part.choices[0].text for part in parts) == "hihi"


async def test_a_stop_text_is_left_out_or_shown_as_asked(api: OpenAiStack) -> None:
    (choice,) = (await complete(api, stop="lo")).choices
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("hél", "stop", "lo")
    shown = {"include_stop_str_in_output": True}
    (choice,) = (await complete(api, stop=["lo", ","], extra_body=shown)).choices
    assert choice.text == "héllo"


async def test_the_prompt_may_be_cut_at_its_front(api: OpenAiStack) -> None:
    answer = await complete(api, "abcdef", extra_body={"truncate_prompt_tokens": 2})
    assert (answer.choices[0].text, answer.usage.prompt_tokens) == ("ef", 2)


async def test_the_tokens_are_shown_if_asked(api: OpenAiStack) -> None:
    (choice,) = (await complete(api, "hi", extra_body={"return_token_ids": True})).choices
    assert choice.token_ids == [104, 105]


async def test_log_probabilities_have_a_column_each(tmp_path: Path) -> None:
    def say(worker: ScriptedWorker, request: WorkRequest) -> None:
        places = (
            TokenLogprobs(-0.5, (97, 98), (-0.5, -1.5)),
            TokenLogprobs(-0.25, (98,), (-0.25,)),
        )
        worker.publish(
            SequenceOutput(request.request_id, 0, (97, 98), None, logprobs=places),
            SequenceOutput(
                request.request_id, 2, (IM_END,), FinishReason.STOP, logprobs=(TokenLogprobs(-1.0),)
            ),
        )

    worker = ScriptedWorker(script=say)
    async with openai_serving(write_folder(tmp_path), worker) as api:
        (choice,) = (await complete(api, logprobs=2)).choices
    assert choice.logprobs.model_dump() == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, {"b": -0.25}],
        "text_offset": [0, 1],
    }
    assert worker.requests[-1].sampling.logprobs == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": ["a"] * 65}, "more than 64 prompts"),
        ({"prompt": [300]}, "outside the model's vocabulary"),
        ({"prompt": [-1]}, "negative"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"prompt_logprobs": 1}, "stream": True}, "prompt_logprobs"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "regex"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    api: OpenAiStack, options: dict[str, Any], words: str
) -> None:
    before = await api.stack.until_idle()
    with pytest.raises(openai.BadRequestError) as refusal:
        await complete(api, **options)
    assert words in refusal.value.message
    assert (await api.stack.until_idle()).accepted == before.accepted
