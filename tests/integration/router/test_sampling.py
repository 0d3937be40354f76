"""Sampling options from a client to real workers and back, over gRPC."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common.rpc.worker_host import WorkerHost
from pdserve.errors import InvalidRequestError, PreconditionError, Reason
from pdserve.v1 import inference_pb2
from tests.integration.support.in_process_workers import CHUNKS_OF_16, Workers
from tests.integration.support.router_stack import (
    ALWAYS_PREFILL,
    HOST,
    Stack,
    collect,
    routing,
    serving,
    text_of,
)
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import load_reference, save_model
from tests.unit.router.tiny_tokenizer import IM_END, VOCAB_SIZE, write_folder

PROMPT = "what the workers say comes from these forty"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, "llama", vocab_size=VOCAB_SIZE, eos_token_id=IM_END)
    return write_folder(folder)


@pytest.fixture(scope="module")
def addresses(model: Path) -> Iterator[list[str]]:
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        hosts = [WorkerHost(worker, HOST) for worker in (workers.prefill, workers.decode)]
        yield [host.start() for host in hosts]
        for host in hosts:
            host.stop(WITHIN_S)


@pytest.fixture
async def stack(model: Path, addresses: list[str]) -> AsyncIterator[Stack]:
    async with routing(model, addresses, ALWAYS_PREFILL) as stack:
        yield stack


async def test_log_probabilities_reach_the_client(stack: Stack, model: Path) -> None:
    parts = await collect(stack.client, PROMPT, max_tokens=9, logprobs=2, prompt_logprobs=1)
    assert parts[-1].finished.prefill_worker == "prefill-0"
    assert [len(part.prompt_logprobs) for part in parts] == [len(PROMPT) - 1] + [0] * (
        len(parts) - 1
    )
    assert all(len(part.logprobs) == len(part.token_ids) for part in parts)
    tokens = [*PROMPT.encode(), *(t for part in parts for t in part.token_ids)]
    reference: Any = load_reference(model)
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens])).logits[0, :-1].double()
    expected = torch.log_softmax(logits, dim=-1)
    entries = [*parts[0].prompt_logprobs, *(entry for part in parts for entry in part.logprobs)]
    for at, (entry, row) in enumerate(zip(entries, expected, strict=True)):
        top = row.topk(1 if at < len(PROMPT) - 1 else 2)
        assert entry.logprob == pytest.approx(float(row[tokens[at + 1]]), abs=1e-3)
        assert list(entry.top_token_ids) == top.indices.tolist()
        assert list(entry.top_logprobs) == pytest.approx(top.values.tolist(), abs=1e-3)


async def test_none_are_sent_that_were_not_asked_for(stack: Stack) -> None:
    parts = await collect(stack.client, PROMPT, max_tokens=3)
    assert not any(part.logprobs or part.prompt_logprobs for part in parts)


async def test_a_bias_decides_what_comes(stack: Stack) -> None:
    """The first token comes from the prefill worker, the others from the decode worker."""
    parts = await collect(stack.client, PROMPT, max_tokens=5, logit_bias={ord("x"): 100.0})
    assert text_of(parts) == "xxxxx"
    wish = {ord("x"): 100.0, ord("y"): 99.0}
    parts = await collect(
        stack.client, PROMPT, max_tokens=9, frequency_penalty=2.0, logit_bias=wish
    )
    assert set(text_of(parts)) == {"x", "y"}


async def test_a_seed_and_its_options_give_the_same_again(stack: Stack) -> None:
    answers = []
    for seed in (5, 5, 6):
        parts = await collect(
            stack.client,
            PROMPT,
            max_tokens=20,
            temperature=1.5,
            seed=seed,
            top_k=40,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.1,
            presence_penalty=0.5,
        )
        answers.append([token for part in parts for token in part.token_ids])
    assert answers[0] == answers[1] != answers[2]


async def test_a_bad_word_never_comes_however_likely_it_is(stack: Stack) -> None:
    """The first token from the prefill worker, the others from the decode worker."""
    wish = {ord("x"): 100.0, ord("y"): 90.0, ord(" "): 80.0}
    for bad_words, text in ((["x"], "yyyyy"), (["xx"], "xyxyx"), (["xy", "xx"], "x x x")):
        parts = await collect(
            stack.client, PROMPT, max_tokens=5, logit_bias=wish, bad_words=bad_words
        )
        assert text_of(parts) == text


async def test_allowed_tokens_alone_come(stack: Stack) -> None:
    wish = {ord("x"): 100.0}
    parts = await collect(
        stack.client, PROMPT, max_tokens=5, logit_bias=wish, allowed_token_ids=[ord("b")]
    )
    assert text_of(parts) == "bbbbb"


async def test_what_forbids_every_token_is_refused_or_ends_by_name(stack: Stack) -> None:
    form = inference_pb2.StructuredOutput(regex="[0-9]{4,8}")
    digits = list(b"0123456789")
    with pytest.raises(InvalidRequestError, match="structured_output and min_tokens"):
        await collect(
            stack.client, PROMPT, structured_output=form, min_tokens=4, stop_token_ids=digits
        )
    with pytest.raises(InvalidRequestError) as invalid:
        await collect(stack.client, PROMPT, allowed_token_ids=[ord("b")], bad_words=["b"])
    assert invalid.value.field == "sampling.allowed_token_ids"
    form = inference_pb2.StructuredOutput(regex="abc")
    with pytest.raises(PreconditionError) as caught:
        await collect(stack.client, PROMPT, structured_output=form, bad_words=["bc"])
    assert caught.value.reason is Reason.NO_TOKEN_LEFT
    assert "structured_output and bad_words" in caught.value.message


async def test_a_stop_text_cuts_a_form(stack: Stack) -> None:
    form = inference_pb2.StructuredOutput(regex="abcdefgh")
    parts = await collect(stack.client, PROMPT, structured_output=form, stop=["cd"])
    assert text_of(parts) == "ab"
    assert parts[-1].finished.reason == inference_pb2.FINISH_REASON_STOP


async def test_a_format_that_cannot_be_kept_is_ignored_unless_strict(stack: Stack) -> None:
    schema = '{"type": "string", "format": "password", "maxLength": 3}'
    form = inference_pb2.StructuredOutput(json_schema=schema)
    parts = await collect(stack.client, PROMPT, structured_output=form, max_tokens=30)
    assert len(json.loads(text_of(parts))) <= 3
    form.strict_formats = True
    with pytest.raises(InvalidRequestError, match="password") as caught:
        await collect(stack.client, PROMPT, structured_output=form)
    assert caught.value.field == "sampling.structured_output.json_schema"


async def test_the_end_waits_for_min_tokens(stack: Stack) -> None:
    wish = {IM_END: 100.0}
    (part,) = await collect(stack.client, PROMPT, max_tokens=20, logit_bias=wish)
    assert list(part.token_ids) == [IM_END]
    parts = await collect(stack.client, PROMPT, max_tokens=20, min_tokens=7, logit_bias=wish)
    tokens = [token for part in parts for token in part.token_ids]
    assert len(tokens) == 8
    assert tokens.index(IM_END) == 7


async def test_a_stop_text_waits_for_min_tokens(model: Path) -> None:
    async with serving(model, ScriptedWorker(script=echo)) as stack:
        parts = await collect(stack.client, "a--b--c--d", stop=["--"], min_tokens=5)
        assert text_of(parts) == "a--b"
        assert parts[-1].finished.usage.completion_tokens == 6


async def test_a_long_prompt_s_log_probabilities_fit_in_a_message(model: Path) -> None:
    prompt = "all of " * 60
    with Workers(model) as workers:
        hosts = [WorkerHost(worker, HOST) for worker in (workers.prefill, workers.decode)]
        async with routing(model, [host.start() for host in hosts]) as stack:
            parts = await collect(stack.client, prompt, max_tokens=2, prompt_logprobs=20)
        for host in hosts:
            host.stop(WITHIN_S)
    assert len(parts[0].prompt_logprobs) == len(prompt) - 1
    assert {len(entry.top_logprobs) for entry in parts[0].prompt_logprobs} == {20}
