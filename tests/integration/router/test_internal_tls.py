"""TLS between routers and workers: tokens flow between those of one deployment, and no others."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from common.certificates import OPEN, PemFiles, Pems, WorkerAccess
from common.config import SecurityConfig, WorkerSpec
from common.router_config import RouterConfig
from common.rpc.internal_tls import NAME, is_untrusted, open_channel
from common.rpc.worker_host import WorkerHost
from deploy.internal_access import make_certificates
from pdserve.client import AsyncClient
from pdserve.errors import UnavailableError, UntrustedWorkerError
from pdserve.v1 import inference_pb2
from router.app import Router
from router.workers.link import WorkerLink
from tests.certificates import Authority
from tests.integration.support.guarded_router import bearer, guarded, outcome, start
from tests.integration.support.linked_worker import until
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.integration.support.tcp_relay import relaying
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

TOKEN = "the-token-of-this-deployment"  # its value has no meaning
CONNECT = ("/pdserve.v1.Worker/Connect", True)


@dataclass(frozen=True, slots=True)
class Side:
    """Certificates of a deployment's worker and router."""

    worker: Pems
    router: Pems


@pytest.fixture(scope="module")
def ours() -> Side:
    return Side(*make_certificates())


@pytest.fixture(scope="module")
def theirs() -> Side:
    return Side(*make_certificates())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def address(ours: Side) -> AsyncIterator[str]:
    """Address of a worker with certificates."""
    host = WorkerHost(ScriptedWorker(script=echo), HOST, WorkerAccess(TOKEN, ours.worker))
    yield host.start()
    await asyncio.to_thread(host.stop, WITHIN_S)


async def ask(router: Router) -> str:
    """Start a router, and return the answer of its worker to a text."""
    async with AsyncClient(await start(router)) as client:
        request = inference_pb2.GenerateRequest(text="hello")
        return "".join([response.text async for response in client.send(request)])


async def test_tokens_flow_between_a_deployments_own(model_dir: Path, ours: Side) -> None:
    host = WorkerHost(ScriptedWorker(script=echo), HOST, WorkerAccess(TOKEN, ours.worker))
    access = WorkerAccess(TOKEN, ours.router)
    router = Router("tiny", model_dir, [host.start()], RouterConfig(), access=access)
    try:
        assert await ask(router) == "hello"
    finally:
        await router.stop(0.0)
        await asyncio.to_thread(host.stop, WITHIN_S)


@pytest.mark.parametrize("is_plain", [False, True], ids=["another authority's", "a plain one"])
async def test_a_router_refuses_a_worker_that_is_not_of_its_deployment(
    model_dir: Path, ours: Side, theirs: Side, is_plain: bool
) -> None:
    shown = OPEN if is_plain else WorkerAccess(TOKEN, theirs.worker)
    stranger = WorkerHost(ScriptedWorker(), HOST, shown)
    address = stranger.start()
    access = WorkerAccess(TOKEN, ours.router)
    router = Router("tiny", model_dir, [address], RouterConfig(), access=access)
    with pytest.raises(UntrustedWorkerError) as caught:
        await router.start(HOST, 0, 0, timeout_s=WITHIN_S)
    assert str(caught.value) == (
        f"the worker at {address} shows no certificate of this deployment. "
        "give routers and workers of a deployment the same security.internal_* settings"
    )
    await router.stop(0.0)
    await asyncio.to_thread(stranger.stop, WITHIN_S)


@pytest.mark.parametrize(
    "words", ["certificate signature failure: OK", "CERTIFICATE_VERIFY_FAILED"]
)
def test_grpcs_words_for_a_foreign_certificate_are_known(words: str) -> None:
    """Authorities of one name, and of two."""
    assert is_untrusted(f"last error: Tls handshake failed (TSI_PROTOCOL_FAILURE): {words}")
    assert not is_untrusted("failed to connect to all addresses; last error: Connection refused")


@pytest.mark.parametrize("shown", ["none", "another's", "a worker's", "no TLS"])
async def test_a_worker_answers_nobody_without_a_routers_certificate(
    address: str, ours: Side, theirs: Side, shown: str
) -> None:
    trusted = ours.router.authority
    other = replace(theirs.router, authority=trusted)  # it trusts our worker
    options = [("grpc.ssl_target_name_override", NAME)]
    channels = {
        "none": lambda: grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(trusted), options=options
        ),
        "another's": lambda: open_channel(address, other),
        "a worker's": lambda: open_channel(address, ours.worker),
        "no TLS": lambda: open_channel(address, None),
    }
    async with channels[shown]() as channel:
        # as one message: an aio call that streams may be CancelledError when its connection is closed
        code, reason = await outcome(channel, (CONNECT[0], False), bearer(TOKEN))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "")
    async with open_channel(address, ours.router) as channel:  # the worker serves on
        code, _ = await outcome(channel, CONNECT, bearer("another token"))
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_router_without_tls_says_which_worker_it_lacks(
    model_dir: Path, address: str
) -> None:
    router = Router("tiny", model_dir, [address], RouterConfig(), access=WorkerAccess(TOKEN))
    with pytest.raises(UnavailableError, match=address):
        await router.start(HOST, 0, 0, timeout_s=0.3)
    await router.stop(0.0)


async def test_new_files_are_taken_up_with_the_next_connection(tmp_path: Path) -> None:
    files = PemFiles(*(tmp_path / f"own{end}" for end in (".key", ".crt", ".ca")))

    def write(authority: Authority) -> None:
        authority.issue(tmp_path / "own", NAME)
        authority.write(files.authority)

    write(Authority())
    access = WorkerAccess(certificates=files)
    host = WorkerHost(ScriptedWorker(), HOST, access)
    async with relaying(host.start()) as (address, relay):
        link = WorkerLink(address, lambda _: None, "me", access)
        link.start()
        await until(lambda: link.is_connected)
        write(Authority())  # neither side would know the other by its old files
        relay.lose()
        await until(lambda: not link.is_connected)
        await until(lambda: link.is_connected)
        files.key.write_text("half of a change")
        relay.lose()
        await until(lambda: not link.is_connected)
        assert link.refusal is None  # it tries again
        write(Authority())
        await until(lambda: link.is_connected)
        await link.close()
    await asyncio.to_thread(host.stop, WITHIN_S)


async def test_a_router_over_files_serves(model_dir: Path, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue(tmp_path / "own", NAME)
    files = PemFiles(pair.key, pair.chain, authority.write(tmp_path / "ca"))
    access = WorkerAccess(TOKEN, files)
    async with guarded(model_dir, ScriptedWorker(script=echo), SecurityConfig(), access) as router:
        assert await ask(router) == "hello"


def test_keys_are_not_shown(ours: Side) -> None:
    access = WorkerAccess(TOKEN, ours.worker)
    spec = WorkerSpec.model_validate(
        {
            "name": "decode-0",
            "role": "decode",
            "model_dir": ".",
            "model_name": "tiny",
            "namespace": "n",
            "cluster_token": TOKEN,
            "certificates": ours.worker,
        }
    )
    assert spec.access == access
    for shown in (repr(spec), str(spec), spec.model_dump_json(), repr(access), repr(OPEN)):
        assert "PRIVATE KEY" not in shown
        assert TOKEN not in shown
