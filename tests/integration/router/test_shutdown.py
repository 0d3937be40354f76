"""A router that stops: what the grace does not let end is ended in a typed way, over every API."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc

from pdserve.errors import Reason, UnavailableError
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.router_stack import MODEL, Stack, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

TEXT = "/v1/completions"
ASKED = {"model": MODEL, "prompt": "abc"}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("model"))
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "eos_token_id": 257}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def worker() -> ScriptedWorker:
    """Return a worker that says one letter and then nothing."""
    return ScriptedWorker(script=lambda worker, request: worker.say(request, "a"))


@pytest.fixture
async def stack(model_dir: Path, worker: ScriptedWorker) -> AsyncIterator[Stack]:
    async with serving(model_dir, worker) as stack:
        yield stack


@pytest.fixture
async def api(model_dir: Path, worker: ScriptedWorker) -> AsyncIterator[OpenAiStack]:
    async with openai_serving(model_dir, worker) as api:
        yield api


def told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, bool]:
    """Return an error's code, the reason in its ErrorInfo, and whether it has RetryInfo."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an RpcError too
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    reason, has_retry = "", False
    for detail in status.details if status else ():
        if detail.Unpack(info):
            reason = info.reason
        has_retry = has_retry or detail.Unpack(retry)
    return error.code(), reason, has_retry


TOLD = (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", True)


async def stop(stack: Stack) -> None:
    """Stop the router without a grace, once its requests have a token."""
    await stack.until(lambda s: s.router.requests_in_flight > 0 and not s.router.requests_queued)
    await asyncio.wait_for(stack.router.stop(0.0), WITHIN_S)


async def failure_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def read(call: Any) -> None:
    async for _ in call:
        pass


@pytest.mark.parametrize(("choices", "resumable"), [(1, False), (2, False), (1, True)])
async def test_a_stream_that_is_left_is_told(
    stack: Stack, worker: ScriptedWorker, choices: int, resumable: bool
) -> None:
    sampling = inference_pb2.SamplingParams(n=choices)
    asked = inference_pb2.GenerateRequest(
        text="x", request_id="r", sampling=sampling, resumable=resumable
    )
    async with grpc.aio.insecure_channel(stack.address) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(asked)
        reading = asyncio.create_task(read(call))
        await asyncio.to_thread(worker.wait_for_request, choices)
        await stop(stack)
        assert told(await failure_of(reading)) == TOLD
    await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
    assert len(worker.cancelled) == choices


@pytest.mark.parametrize("stream", [False, True])
async def test_vllms_contract_says_the_same(stack: Stack, stream: bool) -> None:
    asked = vllm_pb2.GenerateRequest(request_id="r", text="x", stream=stream)
    async with grpc.aio.insecure_channel(stack.address) as channel:
        call = vllm_pb2_grpc.VllmEngineStub(channel).Generate(asked)
        reading = asyncio.create_task(read(call))
        await stop(stack)
        assert told(await failure_of(reading)) == TOLD


async def test_an_http_answer_becomes_a_refusal_that_may_be_sent_again(api: OpenAiStack) -> None:
    asking = asyncio.create_task(api.http.post(TEXT, json=ASKED))
    await stop(api.stack)
    answer = await asking
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "service_unavailable")
    assert "shut down" in error["message"]


async def test_an_event_stream_ends_with_the_error(api: OpenAiStack) -> None:
    has_begun = asyncio.Event()

    async def events() -> list[str]:
        asked: Any = {**ASKED, "stream": True}
        lines = []
        async with api.http.stream("POST", TEXT, json=asked) as response:
            async for line in response.aiter_lines():
                lines += [line] if line else []
                has_begun.set()
        return lines

    reading = asyncio.create_task(events())
    async with asyncio.timeout(WITHIN_S):
        await has_begun.wait()
    await stop(api.stack)
    first, last, done = await reading
    assert json.loads(first.removeprefix("data: "))["choices"][0]["text"] == "a"
    assert "shut down" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"


async def test_a_request_without_a_worker_is_told_too(stack: Stack) -> None:
    await stack.lose(0)
    await stack.until(lambda status: status.workers[0].state == 3)
    waiting = asyncio.create_task(collect(stack.client, "x"))
    await stack.until(lambda status: status.router.requests_queued == 1)
    await asyncio.wait_for(stack.router.stop(0.0), WITHIN_S)
    with pytest.raises(UnavailableError) as caught:
        await waiting
    assert caught.value.reason is Reason.SHUTTING_DOWN


async def test_a_moving_request_is_told_too(model_dir: Path, worker: ScriptedWorker) -> None:
    async with serving(model_dir, worker) as stack:
        running = asyncio.create_task(collect(stack.client, "x"))
        await stack.until(
            lambda s: s.router.requests_in_flight > 0 and not s.router.requests_queued
        )
        await stack.lose(0)
        await stack.until(lambda status: status.workers[0].state == 3)
        await asyncio.wait_for(stack.router.stop(0.0), WITHIN_S)
        with pytest.raises(UnavailableError) as caught:
            await running
    assert caught.value.reason is Reason.SHUTTING_DOWN


async def test_a_cancelled_stop_ends_the_grace_and_still_closes_all(stack: Stack) -> None:
    """A second signal cancels the task that stops the router (deploy/signals.py)."""
    running = asyncio.create_task(collect(stack.client, "x"))
    await stack.until(lambda s: s.router.requests_in_flight > 0 and not s.router.requests_queued)
    stopping = asyncio.create_task(stack.router.stop(100 * WITHIN_S))
    await asyncio.sleep(0)  # lets the drain begin
    with pytest.raises(UnavailableError, match="is shutting down"):
        await collect(stack.client, "late")
    assert not running.done()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(stopping, WITHIN_S)
    with pytest.raises(UnavailableError) as caught:
        await running
    assert caught.value.reason is Reason.SHUTTING_DOWN
    with pytest.raises(httpx2.ConnectError):
        async with httpx2.AsyncClient(trust_env=False) as client:
            await client.get(stack.http)
