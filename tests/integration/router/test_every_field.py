"""Every field of a GenerateRequest over gRPC: with values that work and values that do not."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from common.messages import WorkRequest
from pdserve.statuses import to_error
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.router_stack import MODEL, serving
from tests.integration.support.scripted_worker import CONTEXT, ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

if TYPE_CHECKING:
    from pdserve.v1.inference_pb2_grpc import InferenceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the fixture

LONG, MOST = "x" * 257, 2**31 - 1
EMPTY: dict[str, object] = {}


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one field."""

    valid: tuple[object, ...]
    invalid: tuple[object, ...] = ()
    beside: dict[str, object] = field(default_factory=dict)


def numbers(*valid: float, low: float, high: float) -> Values:
    """Numbers in a range, and those just outside it and far away."""
    return Values(valid, (low - 1, high + 1, math.nan, math.inf, -math.inf))


_TOKENS = Values(([65], []), ([VOCAB_SIZE], [2**32 - 1]))
SAMPLING: dict[str, Values] = {
    "temperature": numbers(0, 0.5, 100, low=0, high=100),
    "seed": Values((0, 2**64 - 1)),
    "max_tokens": Values((1, 16), (0, -1, CONTEXT + 1, MOST, -MOST)),
    "stop": Values((["zz"], []), ([""], [LONG], ["a"] * 129)),
    "stop_token_ids": _TOKENS,
    "ignore_eos": Values((True, False)),
    "top_k": Values((0, 1, MOST), (-1, -MOST)),
    "top_p": numbers(0.5, 1, low=0, high=1),
    "min_p": numbers(0, 0.5, low=0, high=1),
    "repetition_penalty": numbers(1, 1.5, low=0, high=100),
    "presence_penalty": numbers(-2, 2, low=-2, high=2),
    "frequency_penalty": numbers(-2, 2, low=-2, high=2),
    "logit_bias": Values(
        ({65: 100.0}, {65: -100.0}, {}), ({VOCAB_SIZE: 1.0}, {65: 101.0}, {65: math.nan})
    ),
    "min_tokens": Values((0, 16), (-1, 17, MOST), {"max_tokens": 16}),
    "logprobs": Values((0, 20), (-1, 21, MOST)),
    "prompt_logprobs": Values((0, 20), (-1, 21, MOST)),
    "structured_output": Values(
        (
            {"json_schema": '{"type": "string"}'},
            {"regex": "a+"},
            {"grammar": 'start: "a"'},
            {"choice": {"texts": ["a"]}},
            {"json_schema": "{}", "strict_formats": True},
        ),
        (
            EMPTY,
            {"json_schema": "{"},
            {"regex": "("},
            {"regex": ""},
            {"grammar": "no grammar"},
            {"choice": EMPTY},
            {"regex": "a", "strict_formats": True},
        ),
    ),
    "n": Values((1, 16), (0, 17, -1, MOST)),
    "no_top_k": Values((True, False)),
    "no_min_p": Values((True, False)),
    "bad_words": Values((["zz"], []), ([""], [LONG], ["a"] * 129)),
    "allowed_token_ids": _TOKENS,
}
CHAT_TURN = {"role": "user", "content": "hello"}
REQUEST: dict[str, Values] = {
    "request_id": Values(("mine", ""), ("a b", "é", LONG)),
    "model": Values((MODEL, "")),  # another is NOT_FOUND
    "text": Values(("hello",), ("",)),
    "chat": Values(
        ({"messages": [CHAT_TURN]},),
        (
            EMPTY,
            {"messages": [{"role": "judge", "content": "a"}]},
            {"messages": [{"role": "user"}]},
        ),
    ),
    "tokens": Values(
        ({"token_ids": [65]},), (EMPTY, {"token_ids": [VOCAB_SIZE]}, {"token_ids": [2**32 - 1]})
    ),
    "sampling": Values(({"max_tokens": 1}, EMPTY)),
    "cache_salt": Values(("mine", ""), (LONG,)),
    "priority": Values((-100, 100), (-101, 101, MOST)),
    "resumable": Values((True, False), beside={"request_id": "again"}),
    "resume_from": Values((), (0,)),  # goes with request_id alone
    "received": Values(
        ([], [{"token_ids": [65]}], [{}]),
        (
            [{"choice": 1}],
            [{}, {}],
            [{"token_ids": [VOCAB_SIZE]}],
            [{"token_ids": [65] * 4}],
            [{"finished": True}],
        ),
        {"sampling": {"seed": 1, "max_tokens": 4}},
    ),
}


def nod(worker: ScriptedWorker, request: WorkRequest) -> None:
    worker.say(request, "y", ends=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator["InferenceAsyncStub"]:
    folder = write_folder(tmp_path_factory.mktemp("model"))
    async with (
        serving(folder, ScriptedWorker(script=nod)) as stack,
        grpc.aio.insecure_channel(stack.address) as channel,
    ):
        yield inference_pb2_grpc.InferenceStub(channel)


def sampled(**sampling: Any) -> inference_pb2.GenerateRequest:
    return asked(sampling=inference_pb2.SamplingParams(**sampling))


def asked(**fields: Any) -> inference_pb2.GenerateRequest:
    prompt: dict[str, Any] = {} if {"text", "chat", "tokens"} & set(fields) else {"text": "hello"}
    return inference_pb2.GenerateRequest(**prompt, **fields)


async def finishes(stub: "InferenceAsyncStub", request: inference_pb2.GenerateRequest) -> bool:
    parts = [part async for part in stub.Generate(request, timeout=WITHIN_S)]
    return parts[-1].HasField("finished")


async def refused_field(
    stub: "InferenceAsyncStub", request: inference_pb2.GenerateRequest
) -> str | None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await finishes(stub, request)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT, request
    return to_error(refusal.value).field


@pytest.mark.parametrize(
    ("kind", "table"),
    [(inference_pb2.SamplingParams, SAMPLING), (inference_pb2.GenerateRequest, REQUEST)],
)
async def test_each_field_has_values_to_try(kind: type[Message], table: dict[str, Values]) -> None:
    assert set(table) == set(kind.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("name", SAMPLING)
async def test_a_sampling_option_takes_its_values(stub: "InferenceAsyncStub", name: str) -> None:
    values = SAMPLING[name]
    for value in values.valid:
        assert await finishes(stub, sampled(**{**values.beside, name: value}))


@pytest.mark.parametrize("name", SAMPLING)
async def test_a_sampling_option_that_cannot_be_is_refused_by_its_name(
    stub: "InferenceAsyncStub", name: str
) -> None:
    values = SAMPLING[name]
    for value in values.invalid:
        found = await refused_field(stub, sampled(**{**values.beside, name: value}))
        assert found is not None
        assert f"{found}.".startswith(f"sampling.{name}."), value


@pytest.mark.parametrize("name", REQUEST)
async def test_a_field_takes_its_values(stub: "InferenceAsyncStub", name: str) -> None:
    values = REQUEST[name]
    for value in values.valid:
        assert await finishes(stub, asked(**{**values.beside, name: value}))


@pytest.mark.parametrize("name", REQUEST)
async def test_a_field_that_cannot_be_is_refused_by_its_name(
    stub: "InferenceAsyncStub", name: str
) -> None:
    values = REQUEST[name]
    for value in values.invalid:
        found = await refused_field(stub, asked(**{**values.beside, name: value}))
        assert found is not None
        assert f"{found}.".startswith(f"{name}."), value


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"top_k": 1, "no_top_k": True}, "sampling.no_top_k"),
        ({"min_p": 0.5, "no_min_p": True}, "sampling.no_min_p"),
        ({"min_tokens": 9, "max_tokens": 8}, "sampling.min_tokens"),
        ({"structured_output": {"regex": "a"}, "ignore_eos": True}, "sampling.ignore_eos"),
    ],
)
async def test_options_that_contradict_each_other_are_refused(
    stub: "InferenceAsyncStub", sampling: dict[str, object], field: str
) -> None:
    assert await refused_field(stub, sampled(**sampling)) == field


async def test_another_model_is_not_found(stub: "InferenceAsyncStub") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await finishes(stub, asked(model="other"))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert to_error(refusal.value).field == "model"
