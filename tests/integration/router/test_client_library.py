"""Client library against a real router, with and without an event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

import pdserve
from pdserve.errors import (
    InvalidRequestError,
    NotFoundError,
    Reason,
    RequestTimeoutError,
    UnsupportedError,
)
from pdserve.sync_client import Client
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.router_stack import MODEL, Stack, serving
from tests.integration.support.scripted_worker import (
    BLOCK_SIZE,
    BLOCKS,
    CONTEXT,
    ScriptedWorker,
    echo,
)
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import IM_START, VOCAB_SIZE, write_folder

T = TypeVar("T")
CHAT = [("user", "hi")]
RENDERED = "user\nhi\n"  # the text that comes back, without the special tokens


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def stack(model_dir: Path) -> AsyncIterator[Stack]:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        yield stack


async def in_thread(stack: Stack, use: Callable[[Client], T]) -> T:
    """Return the result of `use` on a client without an event loop."""

    def run() -> T:
        with pdserve.Client(stack.address) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def test_generate_gives_the_whole_answer(stack: Stack) -> None:
    sampling = pdserve.SamplingParams(max_tokens=4, n=2)
    whole = await stack.client.generate("a text", sampling, request_id="r")
    assert (whole.request_id, whole.text, whole.token_ids) == ("r", "a te", list(b"a te"))
    assert (whole.finish_reason, len(whole.choices)) == ("length", 2)
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 4)
    plain = await in_thread(stack, lambda client: client.generate("a text", sampling))
    assert plain.choices[1].text == "a te"
    assert plain.choices[1].finish_reason == "length"


async def test_chat_takes_pairs_and_mappings(stack: Stack) -> None:
    as_mapping = [{"role": role, "content": content} for role, content in CHAT]
    for turns in (CHAT, as_mapping):
        answer = await stack.client.chat(turns)
        assert answer.text.startswith(RENDERED)
        assert (await in_thread(stack, lambda client: client.chat(turns))).text == answer.text  # noqa: B023


async def test_stream_gives_it_as_it_comes(stack: Stack) -> None:
    parts = [part.text async for part in stack.client.stream("abc")]
    assert parts == ["a", "b", "c"]
    assert await in_thread(stack, lambda c: [part.text for part in c.stream("abc")]) == parts
    # a client that leaves a stream ends it
    assert (await in_thread(stack, lambda c: next(c.stream("abc")))).text == "a"
    await stack.until_idle()


async def test_resume_and_cancel_without_an_event_loop(stack: Stack) -> None:
    def use(client: Client) -> list[str]:
        first = next(client.stream("abc", request_id="r", resumable=True))
        return [first.text, *(part.text for part in client.resume("r", first.sequence + 1))]

    assert await in_thread(stack, use) == ["a", "b", "c"]
    with pytest.raises(NotFoundError):
        await in_thread(stack, lambda client: client.cancel("r"))


async def test_tokenize_is_what_generate_sees(stack: Stack) -> None:
    tokens = await stack.client.tokenize("été")
    assert list(tokens.token_ids) == list("été".encode())
    assert (tokens.num_tokens, tokens.max_context_tokens) == (5, CONTEXT)
    chat = await in_thread(stack, lambda client: client.tokenize(CHAT))
    assert chat.token_ids[0] == IM_START
    assert (await stack.client.generate(list(chat.token_ids))).text.startswith(RENDERED)


async def test_tokenize_refuses_what_it_cannot_do_by_field(stack: Stack) -> None:
    for prompt, reason, field in (
        ("", Reason.EMPTY_PROMPT, "text"),
        ([("nobody", "x")], Reason.INVALID_FIELD, "chat.messages.role"),
        ("x" * 2**20, Reason.INVALID_FIELD, "text"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await stack.client.tokenize(prompt)
        assert (caught.value.reason, caught.value.field) == (reason, field)
    longest = await stack.client.tokenize("x" * (2**20 - 4), timeout=WITHIN_S)
    assert longest.num_tokens == 2**20 - 4


async def test_tokenize_and_generate_know_the_same_models(stack: Stack) -> None:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="'gpt-17' is not served here"):
            await stub.Tokenize(inference_pb2.TokenizeRequest(model="gpt-17", text="x"))
        ok = await stub.Tokenize(inference_pb2.TokenizeRequest(model=MODEL, text="x"))
    assert ok.num_tokens == 1


async def test_a_long_prompt_is_tokenized_beside_the_streams(stack: Stack) -> None:
    sampling = pdserve.SamplingParams(max_tokens=1)
    with pytest.raises(InvalidRequestError) as caught:
        await stack.client.generate("x" * 2**18, sampling)
    assert caught.value.reason is Reason.CONTEXT_EXCEEDED


async def test_a_token_too_large_for_metadata_is_refused_for_good(stack: Stack) -> None:
    async with pdserve.AsyncClient(stack.address, token="x" * 2**16) as client:
        with pytest.raises(InvalidRequestError, match="metadata size"):
            await client.models()


async def test_sampling_may_be_a_mapping(stack: Stack) -> None:
    whole = await stack.client.generate("a text", {"max_tokens": 4})
    assert whole.text == "a te"
    with pytest.raises(InvalidRequestError) as caught:
        await stack.client.generate("a text", {"temperature": float("nan")})
    assert caught.value.field == "sampling.temperature"


async def test_models_says_what_is_served(stack: Stack) -> None:
    (model,) = await stack.client.models()
    assert model == inference_pb2.Model(
        name=MODEL,
        max_context_tokens=CONTEXT,
        kv_capacity_tokens=model.kv_capacity_tokens,
        vocab_size=VOCAB_SIZE,
        has_chat_template=True,
    )
    assert 0 < model.kv_capacity_tokens <= BLOCKS * BLOCK_SIZE
    assert list(await in_thread(stack, lambda client: client.models())) == [model]


async def test_explain_and_status_without_an_event_loop(stack: Stack) -> None:
    await stack.client.generate("x", request_id="r")
    explained = await in_thread(stack, lambda client: client.explain("r"))
    assert explained == await stack.client.explain("r")
    status = await in_thread(stack, lambda client: client.status())
    assert status.router.totals.completed == 1


async def test_there_are_no_embeddings_and_the_error_says_so(stack: Stack) -> None:
    for client in (stack.client, Client(stack.address)):
        with pytest.raises(UnsupportedError, match="make no embeddings"):
            client.embed("x")


async def test_errors_are_typed_without_an_event_loop(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker()) as stack:
        with pytest.raises(RequestTimeoutError):
            await in_thread(stack, lambda client: client.generate("x", timeout=0.1))
        with pytest.raises(InvalidRequestError) as caught:
            await in_thread(stack, lambda client: client.generate(""))
        assert (caught.value.reason, caught.value.field) == (Reason.EMPTY_PROMPT, "text")
