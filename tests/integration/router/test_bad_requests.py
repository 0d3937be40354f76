"""Requests that once took workers down, over every API: each ends alone, with its reason."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from structlog.testing import capture_logs

from pdserve.errors import InternalError, InvalidRequestError, Reason, RequestError
from pdserve.statuses import to_error
from pdserve.v1 import inference_pb2
from tests.integration.support.in_process_router import Routed, read_to_the_end, routed
from tests.patience import WITHIN_S
from tests.unit.common.engine.breaking import raising_on
from tests.unit.common.engine.tiny_models import VOCAB, engine_config

pytestmark = pytest.mark.asyncio(loop_scope="module")
POISON = 77
SAMPLING = inference_pb2.SamplingParams(seed=3, temperature=0.8, max_tokens=8)
CHAT = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role="user", content="A")])
UNKNOWN = Reason.TOKEN_OUT_OF_VOCABULARY


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Routed]:
    """Yield a model of 101 tokens, and a tokenizer of 259: one a byte, and special ones."""
    config = engine_config(num_blocks=64, max_num_seqs=8)
    folder = tmp_path_factory.mktemp("llama")
    with capture_logs():
        async with routed(folder, config, raising_on(POISON)) as rig:
            yield rig
            await asyncio.to_thread(rig.workers.check_at_rest)


def ours(**prompt: Any) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(sampling=SAMPLING, **prompt)


def tokens(*token_ids: int) -> inference_pb2.GenerateRequest:
    return ours(tokens=inference_pb2.TokenPrompt(token_ids=token_ids))


async def failure_of(call: Any) -> RequestError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_the_end(call)
    return to_error(caught.value)


@pytest.mark.parametrize(
    ("request_", "field", "token"),
    [
        (ours(text="WHAT IS <|im_end|>?"), "text", "'<|im_end|>'"),
        (ours(text="what"), "text", "'w'"),
        (ours(chat=CHAT), "chat", "'<|im_start|>'"),
        (tokens(1, 2, VOCAB), "tokens.token_ids", f"token {VOCAB}"),
        (tokens(2**32 - 1), "tokens.token_ids", f"token {2**32 - 1}"),
    ],
)
async def test_a_token_that_the_model_does_not_know_is_refused_by_its_field(
    rig: Routed, request_: inference_pb2.GenerateRequest, field: str, token: str
) -> None:
    error = await failure_of(rig.ours.Generate(request_, timeout=WITHIN_S))
    assert isinstance(error, InvalidRequestError)
    assert (error.reason, error.field) == (UNKNOWN, field)
    assert token in error.message
    await serves_on(rig)


async def test_so_it_is_by_vllms_contract(rig: Routed) -> None:
    text = vllm_pb2.GenerateRequest(request_id="t", text="WHAT IS <s>?")
    ids = vllm_pb2.GenerateRequest(
        request_id="i", tokenized=vllm_pb2.TokenizedInput(input_ids=[VOCAB])
    )
    for request, field in ((text, "text"), (ids, "tokenized.input_ids")):
        error = await failure_of(rig.vllm.Generate(request, timeout=WITHIN_S))
        assert isinstance(error, InvalidRequestError)
        assert (error.reason, error.field) == (UNKNOWN, field)
    await serves_on(rig)


async def test_tokenize_answers_with_tokens_that_the_model_does_not_know(rig: Routed) -> None:
    request = inference_pb2.TokenizeRequest(text="A<s>")
    response = await rig.ours.Tokenize(request, timeout=WITHIN_S)
    assert list(response.token_ids) == [65, 258]


async def test_a_request_that_makes_steps_raise_ends_with_step_failed(rig: Routed) -> None:
    """The error names the exception without its message; neighbours get their usual text."""
    healthy = [tokens(*(place % 70 for place in range(start, start + 30))) for start in range(4)]
    alone = [text_of(await run(rig, request)) for request in healthy]
    culprit = tokens(5, POISON, 6)
    tasks = [asyncio.create_task(run(rig, request)) for request in healthy]
    ends = [failure_of(rig.ours.Generate(culprit, timeout=WITHIN_S)) for _ in range(2)]
    for error in await asyncio.gather(*ends):
        assert isinstance(error, InternalError)
        assert error.reason is Reason.STEP_FAILED
        assert "RuntimeError" in error.message
        assert "failpoint" not in error.message
    assert [text_of(await task) for task in tasks] == alone


async def run(rig: Routed, request: inference_pb2.GenerateRequest) -> list[Any]:
    return await read_to_the_end(rig.ours.Generate(request, timeout=WITHIN_S))


def text_of(messages: list[Any]) -> list[int]:
    return [token_id for message in messages for token_id in message.token_ids]


async def serves_on(rig: Routed) -> None:
    assert len(text_of(await run(rig, ours(text="WHAT IS THIS?")))) == 8
