"""Promises of docs/use/api.md beside the methods: watched health, details of refusals, limits."""

import ast
import asyncio
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from common.router_config import RouterConfig
from common.rpc.channel import MAX_MESSAGE_BYTES, SERVER_OPTIONS
from pdserve.connection import MAX_RESPONSE_BYTES, options
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from router.edge.models import MAX_TOKENIZE_BYTES
from tests.integration.support.router_stack import Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.repository.sources import ROOT, modules
from tests.unit.router.tiny_tokenizer import write_folder

API = (ROOT / "docs" / "use" / "api.md").read_text("utf-8")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


async def watch(stack: Stack, service: str, seen: asyncio.Queue[int]) -> None:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(  # type: ignore[attr-defined]  # left out
            health_pb2.HealthCheckRequest(service=service)
        )
        async for response in call:
            seen.put_nowait(response.status)


@pytest.mark.parametrize("service", ["", "pdserve.v1.Inference", "pdserve.v1.Admin"])
async def test_whoever_watches_health_learns_of_the_drain_while_answers_go_on(
    model_dir: Path, service: str
) -> None:
    worker, seen = ScriptedWorker(), asyncio.Queue[int]()
    async with serving(model_dir, worker) as stack, asyncio.timeout(WITHIN_S):
        watching = asyncio.create_task(watch(stack, service, seen))
        assert await seen.get() == SERVING
        answer = asyncio.create_task(stack.client.generate("x"))
        request = await asyncio.to_thread(worker.wait_for_request)
        stopping = asyncio.create_task(stack.router.stop(WITHIN_S))
        assert await seen.get() == NOT_SERVING
        worker.say(request, "to the end", ends=True)
        assert (await answer).text == "to the end"
        watching.cancel()
        await stopping


async def refusal(stack: Stack, request: inference_pb2.GenerateRequest) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(inference_pb2_grpc.InferenceStub(channel).Generate(request)))
    return caught.value


def details(error: grpc.aio.AioRpcError) -> tuple[list[str], list[str]]:
    """Return the names of the details, and the fields that BadRequest names."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an RpcError too
    assert status is not None
    bad, fields = error_details_pb2.BadRequest(), []
    for detail in status.details:
        if detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return [detail.TypeName().rpartition(".")[2] for detail in status.details], fields


async def test_each_kind_of_refusal_has_its_details(model_dir: Path) -> None:
    config = RouterConfig(max_queued_requests=1)
    async with serving(model_dir, ScriptedWorker(), config=config) as stack:
        error = await refusal(stack, inference_pb2.GenerateRequest())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(error) == (["ErrorInfo", "BadRequest"], ["tokens.token_ids"])
        waiting = asyncio.create_task(stack.client.generate("x"))
        await stack.until(lambda status: status.router.requests_queued == 1)
        error = await refusal(stack, inference_pb2.GenerateRequest(text="x"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(error) == (["ErrorInfo", "RetryInfo"], [])
        stack.router._admission.drain()
        error = await refusal(stack, inference_pb2.GenerateRequest(text="x"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert details(error) == (["ErrorInfo", "RetryInfo"], [])
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stack.until_idle()


async def test_a_message_beyond_the_limit_is_refused_by_grpc(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker()) as stack:
        request = inference_pb2.GenerateRequest(text="x" * MAX_MESSAGE_BYTES)
        error = await refusal(stack, request)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (error.details() or "")
        assert (await stack.until_idle()).accepted == 0


def test_every_refusal_of_a_request_as_it_is_names_a_field() -> None:
    without = [
        f"{path}:{node.lineno}"
        for path, module in modules(ROOT / "router")
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "InvalidRequestError"
        and "field" not in {keyword.arg for keyword in node.keywords}
    ]
    assert without == []


def test_the_documented_limits_are_those_that_hold() -> None:
    mib, server, client = 2**20, dict(SERVER_OPTIONS), dict(options(retries=True))
    for said, value in {
        "| a request message | 4 MiB |": 4 * mib == MAX_MESSAGE_BYTES,
        "| a `Tokenize` request | 1 MiB |": mib == MAX_TOKENIZE_BYTES,
        "the Python client takes 64 MiB": 64 * mib == MAX_RESPONSE_BYTES,
        "one every 10 s": server["grpc.http2.min_ping_interval_without_data_ms"] == 10_000,
        "after 60 s": server["grpc.keepalive_time_ms"] == 60_000,
        "20 s later": server["grpc.keepalive_timeout_ms"] == 20_000,
        "pings after 30 s": client["grpc.keepalive_time_ms"] == 30_000,
        "waits 10 s": client["grpc.keepalive_timeout_ms"] == 10_000,
        "(10 s)": RouterConfig().resume_grace_s == 10,
    }.items():
        assert said in API
        assert value, said
