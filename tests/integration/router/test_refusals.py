"""Refusals of the router: a status with reason and field.

When a retry may help, it also has a delay.
"""

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from common.router_config import RouterConfig
from common.rpc.channel import MAX_MESSAGE_BYTES
from pdserve.errors import (
    DuplicateRequestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestError,
    UnavailableError,
)
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.router_stack import Stack, collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

Request = inference_pb2.GenerateRequest
Sampling = inference_pb2.SamplingParams


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


async def refusal(stack: Stack, request: Request) -> grpc.aio.AioRpcError:
    """Return the bare status with which the router refuses."""
    async with grpc.aio.insecure_channel(stack.address) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    return caught.value


def details(error: grpc.aio.AioRpcError) -> dict[str, object]:
    """Return the unpacked details by the name of their type."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
    )
    found = {}
    for packed in status.details if status else ():
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


async def test_a_full_queue_says_when_to_try_again(model_dir: Path) -> None:
    worker = ScriptedWorker()
    config = RouterConfig(max_queued_requests=2)
    async with serving(model_dir, worker, config=config) as stack:
        queued = [asyncio.create_task(collect(stack.client, "x")) for _ in range(2)]
        second = await asyncio.to_thread(worker.wait_for_request, 2)
        start_s = time.monotonic()
        error = await refusal(stack, Request(text="x"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        found = details(error)
        info, retry = found["ErrorInfo"], found["RetryInfo"]
        assert isinstance(info, error_details_pb2.ErrorInfo)
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert (info.reason, info.domain) == ("QUEUE_FULL", "pdserve")
        # half a second, plus the first place in a line of a second each, half more or less
        assert 1000 <= retry.retry_delay.ToMilliseconds() < 2000
        with pytest.raises(OverloadedError, match="2 requests are queued") as caught:
            await collect(stack.client, "x")
        passed_s = time.monotonic() - start_s
        assert 1.5 - passed_s < caught.value.retry_after_s < 3.5  # the second place

        worker.say(second, "first token")  # one place is free now
        await stack.until(lambda status: status.router.requests_queued == 1)
        queued.append(asyncio.create_task(collect(stack.client, "x")))
        await asyncio.to_thread(worker.wait_for_request, 3)
        for task in queued:
            task.cancel()
        await asyncio.gather(*queued, return_exceptions=True)
        totals = await stack.until_idle()
    assert (totals.accepted, totals.cancelled, totals.rejected) == (3, 3, 2)


async def test_too_many_in_flight_are_refused_though_none_is_queued(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker, config=RouterConfig(max_inflight_requests=1)) as stack:
        running = asyncio.create_task(collect(stack.client, "x"))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "a")
        await stack.until(lambda status: status.router.requests_queued == 0)
        with pytest.raises(OverloadedError, match="1 requests are in flight"):
            await collect(stack.client, "x")
        worker.say(request, "b", 1, ends=True)
        assert text_of(await running) == "ab"
        await stack.until_idle()
        again = asyncio.create_task(collect(stack.client, "x"))
        worker.say(await asyncio.to_thread(worker.wait_for_request, 2), "c", ends=True)
        assert text_of(await again) == "c"


async def test_a_live_request_s_id_cannot_be_taken_and_an_ended_one_s_can(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        first = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
        request = await asyncio.to_thread(worker.wait_for_request)
        error = await refusal(stack, Request(text="x", request_id="mine"))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        with pytest.raises(DuplicateRequestError) as caught:
            await collect(stack.client, "x", request_id="mine")
        assert caught.value.reason is Reason.DUPLICATE_REQUEST_ID
        worker.say(request, "unharmed", ends=True)
        assert text_of(await first) == "unharmed"
        await stack.until_idle()
        again = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
        worker.say(await asyncio.to_thread(worker.wait_for_request, 2), "again", ends=True)
        assert text_of(await again) == "again"


async def test_bad_input_names_its_field_and_never_reaches_a_worker(model_dir: Path) -> None:
    worker = ScriptedWorker(script=echo)
    token = inference_pb2.TokenPrompt(token_ids=[VOCAB_SIZE])
    cases: list[tuple[Request, type[RequestError], Reason, str]] = [
        (Request(), InvalidRequestError, Reason.EMPTY_PROMPT, "tokens.token_ids"),
        (Request(model="x", text="x"), NotFoundError, Reason.MODEL_NOT_FOUND, "model"),
        (
            Request(tokens=token),
            InvalidRequestError,
            Reason.TOKEN_OUT_OF_VOCABULARY,
            "tokens.token_ids",
        ),
        (
            Request(text="x" * 200, sampling=Sampling(max_tokens=57)),
            InvalidRequestError,
            Reason.KV_CAPACITY_EXCEEDED,
            "sampling.max_tokens",
        ),
        (
            Request(text="x" * 200, sampling=Sampling(max_tokens=313)),
            InvalidRequestError,
            Reason.CONTEXT_EXCEEDED,
            "sampling.max_tokens",
        ),
    ]
    async with serving(model_dir, worker) as stack:
        for request, kind, reason, field in cases:
            violation = details(await refusal(stack, request))["BadRequest"]
            assert isinstance(violation, error_details_pb2.BadRequest)
            assert [v.field for v in violation.field_violations] == [field]
            with pytest.raises(kind) as caught:
                await anext(stack.client.send(request))
            assert (caught.value.reason, caught.value.field) == (reason, field)
        totals = await stack.until_idle()
        assert text_of(await collect(stack.client, "fine")) == "fine"
    assert (totals.accepted, totals.rejected) == (0, 10)
    assert len(worker.requests) == 1


async def test_a_message_beyond_the_limit_is_refused_and_the_router_lives(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        with pytest.raises(InvalidRequestError, match="larger than max"):
            await collect(stack.client, "x" * (MAX_MESSAGE_BYTES + 1))
        assert text_of(await collect(stack.client, "fine")) == "fine"


async def test_a_router_that_stops_lets_running_requests_end(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        running = asyncio.create_task(collect(stack.client, "x"))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "to the ")
        await stack.until(lambda status: status.router.requests_queued == 0)
        stopping = asyncio.create_task(stack.router.stop(WITHIN_S))
        await asyncio.sleep(0)  # lets the drain begin
        with pytest.raises(UnavailableError, match="shutting down") as caught:
            await collect(stack.client, "x")
        assert caught.value.reason is Reason.SHUTTING_DOWN
        assert not stopping.done()
        worker.say(request, "end", 7, ends=True)
        assert text_of(await running) == "to the end"
        await asyncio.wait_for(stopping, WITHIN_S)


async def test_a_router_that_stops_does_not_wait_for_ever(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        running = asyncio.create_task(collect(stack.client, "x"))
        request = await asyncio.to_thread(worker.wait_for_request)
        await asyncio.wait_for(stack.router.stop(0.05), WITHIN_S)
        with pytest.raises(RequestError):
            await running
        await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
        assert worker.cancelled == [request.request_id]
