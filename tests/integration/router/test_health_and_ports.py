"""Router beside its requests: health, reflection, HTTP, ports, and workers that it refuses."""

import asyncio
import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client.parser import text_string_to_metric_families

from common.messages import Role
from common.router_config import RouterConfig
from common.rpc.convert import info_to_pb
from pdserve.errors import PdserveError, SetupError, UnavailableError
from pdserve.v1 import admin_pb2, worker_pb2
from router.app import Router
from tests.integration.support.handwritten_worker import Messages, handwritten_worker
from tests.integration.support.router_stack import HOST, Stack, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def get(stack: Stack, path: str) -> tuple[int, str]:
    """Return an HTTP answer's status and body."""
    try:
        with urllib.request.urlopen(f"{stack.http}{path}", timeout=WITHIN_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def health_of(stack: Stack, service: str) -> int:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(channel)
        check = stub.Check  # type: ignore[attr-defined]  # the type stubs leave it out
        response: health_pb2.HealthCheckResponse = await check(request)
    return response.status


async def test_health_is_serving_for_the_server_and_each_service(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker()) as stack:
        for name in ("", "pdserve.v1.Inference", "pdserve.v1.Admin"):
            assert await health_of(stack, name) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(stack, "pdserve.v1.Nothing")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_describes_them(model_dir: Path) -> None:
    def ask(address: str) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("pdserve.v1.Inference")
            methods = [method.name for method in file.service[0].method]
            return set(database.get_services()), methods

    async with serving(model_dir, ScriptedWorker()) as stack:
        services, methods = await asyncio.to_thread(ask, stack.address)
    assert services == {
        "pdserve.v1.Inference",
        "pdserve.v1.Admin",
        "vllm.grpc.engine.VllmEngine",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert methods == ["Generate", "Cancel", "Explain", "ListModels", "Tokenize"]


async def test_the_http_port_tells_life_from_readiness(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker()) as stack:
        assert await asyncio.to_thread(get, stack, "/healthz") == (200, "ok\n")
        assert await asyncio.to_thread(get, stack, "/readyz") == (200, "ready\n")
        code, body = await asyncio.to_thread(get, stack, "/elsewhere")
        assert (code, "/metrics" in body) == (404, True)
        await stack.lose(0)
        await stack.until(lambda status: status.workers[0].state != 1)
        assert await asyncio.to_thread(get, stack, "/healthz") == (200, "ok\n")
        code, body = await asyncio.to_thread(get, stack, "/readyz")
        assert (code, "no decode worker" in body) == (503, True)


async def test_a_draining_router_is_alive_and_not_ready(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        running = asyncio.create_task(collect(stack.client, "x"))
        request = await asyncio.to_thread(worker.wait_for_request)
        stopping = asyncio.create_task(stack.router.stop(WITHIN_S))
        await asyncio.sleep(0)  # lets the drain begin
        code, body = await asyncio.to_thread(get, stack, "/readyz")
        assert (code, "drains" in body) == (503, True)
        assert await asyncio.to_thread(get, stack, "/healthz") == (200, "ok\n")
        worker.say(request, "bye", ends=True)
        await running
        await stopping


async def test_metrics_are_the_account_of_what_happened(model_dir: Path) -> None:
    prefill = ScriptedWorker("prefill-0", Role.PREFILL)
    decode = ScriptedWorker(script=echo)
    decode.reported = replace(
        decode.reported, credit_bytes=400, credit_wanted_bytes=300, spilled_bytes=200
    )
    async with serving(model_dir, decode, prefill) as stack:
        await collect(stack.client, "three")
        await collect(stack.client, "words")
        with pytest.raises(PdserveError):
            await collect(stack.client, "")
        _, body = await asyncio.to_thread(get, stack, "/metrics")
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    expected = {
        ("pdserve_requests_total", "completed"): 2,
        ("pdserve_requests_total", "rejected"): 1,
        ("pdserve_requests_in_flight",): 0,
        ("pdserve_requests_queued",): 0,
        ("pdserve_prompt_tokens_total",): 10,
        ("pdserve_generation_tokens_total",): 10,
        ("pdserve_time_to_first_token_seconds_count",): 2,
        ("pdserve_inter_token_latency_seconds_count",): 8,
        ("pdserve_e2e_request_latency_seconds_count",): 2,
        ("pdserve_worker_up", "decode", "decode-0"): 1,
        ("pdserve_worker_up", "prefill", "prefill-0"): 1,
        ("pdserve_worker_kv_blocks", "decode", "decode-0", "free"): 16,
        ("pdserve_worker_kv_credit_bytes", "decode", "decode-0", "total"): 400,
        ("pdserve_worker_kv_credit_bytes", "decode", "decode-0", "wanted"): 300,
        ("pdserve_object_store_spilled_bytes_total", "decode", "decode-0"): 200,
    }
    assert {key: values.get(key) for key in expected} == expected


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.mark.parametrize("key", ["grpc_port", "http_port"])
async def test_a_port_in_use_is_one_clear_error_and_nothing_hangs(
    model_dir: Path, key: str
) -> None:
    router = Router("tiny", model_dir, [], RouterConfig())
    with taken_port() as port:
        ports = {"grpc_port": 0, "http_port": 0} | {key: port}
        with pytest.raises(SetupError, match=f"{key} {port} on {HOST} is not free") as caught:
            await router.start(HOST, timeout_s=WITHIN_S, **ports)
        assert "\n" not in str(caught.value)
        await asyncio.wait_for(router.stop(WITHIN_S), WITHIN_S)


async def test_a_worker_that_is_not_there_is_named_by_address(model_dir: Path) -> None:
    with taken_port() as port:
        address = f"{HOST}:{port}"
        router = Router("tiny", model_dir, [address], RouterConfig())
        with pytest.raises(UnavailableError, match=address):
            await router.start(HOST, 0, 0, timeout_s=0.2)
        await asyncio.wait_for(router.stop(0.0), WITHIN_S)


async def test_a_worker_with_an_unknown_role_counts_as_not_there(model_dir: Path) -> None:
    async def newer() -> Messages:
        info = worker_pb2.WorkerInfo(name="new", role=99)  # type: ignore[arg-type]
        yield worker_pb2.ConnectResponse(info=info)

    async with handwritten_worker(newer) as address:
        router = Router("tiny", model_dir, [address], RouterConfig())
        with pytest.raises(UnavailableError, match=address):
            await router.start(HOST, 0, 0, timeout_s=0.2)
        await asyncio.wait_for(router.stop(0.0), WITHIN_S)


async def test_a_worker_counts_only_once_its_memory_is_known(model_dir: Path) -> None:
    is_known = asyncio.Event()

    async def slow() -> Messages:
        info = info_to_pb(ScriptedWorker().info)
        yield worker_pb2.ConnectResponse(info=info)
        await is_known.wait()
        load = admin_pb2.WorkerLoad(blocks_total=16, block_size=16)
        yield worker_pb2.ConnectResponse(load=load)
        await asyncio.Event().wait()

    async with handwritten_worker(slow) as address:
        router = Router("tiny", model_dir, [address], RouterConfig())
        starting = asyncio.create_task(router.start(HOST, 0, 0, WITHIN_S))
        done, _ = await asyncio.wait({starting}, timeout=0.1)
        assert not done
        is_known.set()
        await starting
        await router.stop(0.0)
