"""Authentication of routers to workers: without the deployment's token a worker answers nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from common.certificates import WorkerAccess
from common.config import SecurityConfig
from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from pdserve.client import AsyncClient
from pdserve.errors import Reason, UnavailableError
from pdserve.v1 import inference_pb2
from router.app import Router
from tests.integration.support.guarded_router import Metadata, bearer, guarded, outcome, start
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

TOKEN = "the-token-of-this-deployment"  # its value has no meaning
CONNECT = ("/pdserve.v1.Worker/Connect", True)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def worker_address() -> AsyncIterator[str]:
    host = WorkerHost(ScriptedWorker(), HOST, WorkerAccess(TOKEN))
    yield host.start()
    await asyncio.to_thread(host.stop, WITHIN_S)


async def test_a_router_with_the_token_is_served(model_dir: Path) -> None:
    worker = ScriptedWorker(script=echo)
    async with (
        guarded(model_dir, worker, SecurityConfig(), WorkerAccess(TOKEN)) as router,
        AsyncClient(await start(router)) as client,
    ):
        request = inference_pb2.GenerateRequest(text="hello")
        texts = [response.text async for response in client.send(request)]
    assert "".join(texts) == "hello"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), Reason.CREDENTIALS_MISSING),
        (bearer("another"), Reason.CREDENTIALS_INVALID),
        (bearer(TOKEN[:-1]), Reason.CREDENTIALS_INVALID),
        (bearer(""), Reason.CREDENTIALS_INVALID),
    ],
)
async def test_a_stranger_is_turned_away_at_the_worker(
    worker_address: str, metadata: Metadata, reason: Reason
) -> None:
    async with grpc.aio.insecure_channel(worker_address) as channel:
        found = await outcome(channel, CONNECT, metadata)
    assert found == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_a_router_without_the_token_says_which_worker_it_lacks(
    model_dir: Path, worker_address: str
) -> None:
    router = Router("tiny", model_dir, [worker_address], RouterConfig())
    with pytest.raises(UnavailableError, match=worker_address):
        await router.start(HOST, 0, 0, timeout_s=0.3)
    await router.stop(0.0)
