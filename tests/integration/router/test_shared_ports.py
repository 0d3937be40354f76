"""Two routers on one gRPC and one OpenAI port (`router.share_ports`): both answer."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from common.router_config import RouterConfig
from common.rpc.channel import CLIENT_OPTIONS
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from router.app import Router
from tests.integration.support.in_process_router import read_to_the_end
from tests.integration.support.router_stack import HOST, MODEL, Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

SHARED = RouterConfig(share_ports=True)
# the kernel spreads connections evenly: one router gets none of so many once in 2 ** 63 times
NUM_CONNECTIONS = 64


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@asynccontextmanager
async def beside(stack: Stack, model_dir: Path, config: RouterConfig) -> AsyncIterator[Router]:
    """Yield a second router of the same workers, on the first one's gRPC port."""
    addresses = [view.address for view in stack.router._pool.views()]
    router = Router(MODEL, model_dir, addresses, config)
    try:
        await router.start(HOST, int(stack.address.rpartition(":")[2]), 0, WITHIN_S)
        yield router
    finally:
        await router.stop(0.0)


async def ask_anew(stack: Stack) -> None:
    """Ask over a connection of its own."""
    # clients of one process share a connection; channels with these options do not
    async with grpc.aio.insecure_channel(stack.address, options=CLIENT_OPTIONS) as channel:
        request = inference_pb2.GenerateRequest(text="x")
        call = inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=WITHIN_S)
        assert await read_to_the_end(call)


async def test_both_routers_get_connections_of_one_port(model_dir: Path) -> None:
    async with (
        serving(model_dir, ScriptedWorker(script=echo), config=SHARED) as stack,
        beside(stack, model_dir, SHARED) as second,
    ):
        await asyncio.gather(*(ask_anew(stack) for _ in range(NUM_CONNECTIONS)))
        counts = [router._admission.accepted for router in (stack.router, second)]
        assert sum(counts) == NUM_CONNECTIONS
        assert all(counts)


async def test_one_router_that_stops_leaves_the_port_to_the_other(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo), config=SHARED) as stack:
        port = await stack.router.serve_openai(HOST, 0)
        async with beside(stack, model_dir, SHARED) as second:
            assert await second.serve_openai(HOST, port) == port
            await stack.router.stop(0.0)
            for _ in range(4):
                await ask_anew(stack)
                assert await asyncio.to_thread(status_of, f"http://{HOST}:{port}/v1/models") == 200
            assert second._admission.accepted == 4


async def test_a_router_that_does_not_share_is_refused_beside_one_that_does(
    model_dir: Path,
) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo), config=SHARED) as stack:
        with pytest.raises(SetupError, match=r"grpc_port .* is not free"):
            async with beside(stack, model_dir, RouterConfig()):
                pass
        port = await stack.router.serve_openai(HOST, 0)
        async with serving(model_dir, ScriptedWorker()) as other:
            with pytest.raises(SetupError, match=r"openai_port .* is not free"):
                await other.router.serve_openai(HOST, port)


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=WITHIN_S) as response:
        status: int = response.status
    return status
