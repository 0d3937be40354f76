"""Authorization at a router with an access file."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc

from common.config import SecurityConfig
from pdserve.client import AsyncClient
from pdserve.errors import (
    NotFoundError,
    PermissionDeniedError,
    Reason,
    RequestCancelledError,
    UnauthenticatedError,
)
from pdserve.v1 import inference_pb2
from router.app import Router
from tests.integration.support.guarded_router import (
    ACME,
    OPS,
    ZETA,
    Metadata,
    bearer,
    guarded,
    issue,
    methods_of,
    outcome,
    start,
)
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
STREAMED_HEALTH = "/grpc.health.v1.Health/Watch"


@dataclass(frozen=True, slots=True)
class Guarded:
    """Router and clients that a test drives."""

    address: str
    router: Router
    worker: ScriptedWorker
    access_file: Path
    tokens: dict[str, str]

    def client(self, tenant: str) -> AsyncClient:
        return AsyncClient(self.address, token=self.tokens[tenant])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def stack(model_dir: Path, tmp_path: Path) -> AsyncIterator[Guarded]:
    """Yield a router whose worker takes requests and never answers by itself."""
    worker, file = ScriptedWorker(), tmp_path / "access"
    tokens = issue(file, ACME, ZETA, OPS)
    async with guarded(model_dir, worker, SecurityConfig(access_file=file)) as router:
        yield Guarded(await start(router), router, worker, file, tokens)


async def ask(
    client: AsyncClient, request_id: str = "", text: str = "hello", salt: str = ""
) -> str:
    """Return the complete answer."""
    request = inference_pb2.GenerateRequest(request_id=request_id, text=text, cache_salt=salt)
    return "".join([response.text async for response in client.send(request)])


async def test_no_method_but_health_answers_a_stranger(stack: Guarded) -> None:
    token = stack.tokens["acme"]
    strangers: dict[str, Metadata] = {
        "nothing": (),
        "unknown": bearer(f"{token}x"),
        "hash": bearer(sha256(token.encode()).hexdigest()),
        "empty": bearer(""),
        "scheme": (("authorization", f"Basic {token}"),),
        "bare": (("authorization", token),),
        "elsewhere": (("x-authorization", f"Bearer {token}"),),
    }
    async with grpc.aio.insecure_channel(stack.address) as channel:
        methods = await methods_of(channel, bearer(token))
        assert {name for name, _ in methods} >= {
            "/pdserve.v1.Inference/Generate",
            "/pdserve.v1.Admin/Status",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            STREAMED_HEALTH,
            "/vllm.grpc.engine.VllmEngine/Generate",
        }
        for method in methods:
            for who, metadata in strangers.items():
                is_missing = who in ("nothing", "elsewhere")
                reason = Reason.CREDENTIALS_MISSING if is_missing else Reason.CREDENTIALS_INVALID
                is_open = method[0].startswith("/grpc.health.v1.Health/")
                expected = (grpc.StatusCode.OK, "") if is_open else (UNAUTHENTICATED, reason)
                found = await outcome(channel, method, metadata)
                assert found == expected, (method, who)
    assert not stack.worker.requests


async def test_administration_is_for_admins_and_the_rest_for_all(stack: Guarded) -> None:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        for method in await methods_of(channel, bearer(stack.tokens["ops"])):
            user = await outcome(channel, method, bearer(stack.tokens["acme"]))
            admin = await outcome(channel, method, bearer(stack.tokens["ops"]))
            denied = (grpc.StatusCode.PERMISSION_DENIED, Reason.ADMIN_REQUIRED)
            assert (user == denied) == method[0].startswith("/pdserve.v1.Admin/")
            assert admin[0] not in (UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    async with stack.client("acme") as user_client:
        with pytest.raises(PermissionDeniedError, match="acme is a user"):
            await user_client.status()
    async with stack.client("ops") as admin_client:
        assert (await admin_client.status()).router.model == "tiny"
    async with AsyncClient(stack.address, token="pds_unknown") as stranger:
        with pytest.raises(UnauthenticatedError) as caught:
            await ask(stranger)
    assert caught.value.reason is Reason.CREDENTIALS_INVALID


async def test_another_tenants_request_is_not_there(stack: Guarded) -> None:
    async with stack.client("acme") as acme, stack.client("zeta") as zeta:
        mine = asyncio.create_task(ask(acme, "job"))
        request = await asyncio.to_thread(stack.worker.wait_for_request, 1)
        for name in ("job", "acme/job"):
            with pytest.raises(NotFoundError):
                await zeta.cancel(name)
            with pytest.raises(NotFoundError):
                await zeta.explain(name)
        # the same id at the same time is no duplicate, and gets its own tokens
        theirs = asyncio.create_task(ask(zeta, "job"))
        other = await asyncio.to_thread(stack.worker.wait_for_request, 2)
        assert other.request_id != request.request_id
        stack.worker.say(request, "for acme", ends=True)
        stack.worker.say(other, "for zeta", ends=True)
        assert (await mine, await theirs) == ("for acme", "for zeta")
        assert (await acme.explain("job")).request_id == "job"


async def test_vllms_abort_ends_the_callers_own_requests_alone(stack: Guarded) -> None:
    async with stack.client("acme") as acme, grpc.aio.insecure_channel(stack.address) as channel:
        running = asyncio.create_task(ask(acme, "job"))
        request = await asyncio.to_thread(stack.worker.wait_for_request)
        abort: Any = vllm_pb2_grpc.VllmEngineStub(channel).Abort
        message = vllm_pb2.AbortRequest(request_ids=["job", "acme/job"])
        await abort(message, metadata=bearer(stack.tokens["zeta"]))
        stack.worker.say(request, "untouched", ends=True)
        assert await running == "untouched"


async def test_an_admin_sees_and_ends_everybodys_requests(stack: Guarded) -> None:
    async with stack.client("acme") as acme, stack.client("ops") as ops:
        for number, name in enumerate(("job", "acme/job"), 1):
            running = asyncio.create_task(ask(acme, "job"))
            await asyncio.to_thread(stack.worker.wait_for_request, number)
            assert (await ops.explain(name)).prompt_tokens == 5
            await ops.cancel(name)
            with pytest.raises(RequestCancelledError):
                await running


async def test_tenants_share_no_cached_kv(stack: Guarded) -> None:
    for number, (tenant, salt) in enumerate(
        [("acme", ""), ("zeta", ""), ("acme", "x"), ("zeta", "x")], 1
    ):
        async with stack.client(tenant) as client:
            running = asyncio.create_task(ask(client, salt=salt))
            request = await asyncio.to_thread(stack.worker.wait_for_request, number)
            stack.worker.say(request, "done", ends=True)
            await running
    salts = [request.cache_salt for request in stack.worker.requests]
    assert salts == ["acme/", "zeta/", "acme/x", "zeta/x"]


async def test_a_change_of_the_access_file_counts_at_once_and_a_bad_one_not_at_all(
    stack: Guarded,
) -> None:
    async with stack.client("acme") as acme, stack.client("ops") as ops:
        running = asyncio.create_task(ask(acme, "old"))
        request = await asyncio.to_thread(stack.worker.wait_for_request)
        stack.worker.say(request, "done", ends=True)
        assert await running == "done"
        fresh = issue(stack.access_file, ACME)
        for stranger in (acme, ops):
            with pytest.raises(UnauthenticatedError):
                await stranger.cancel("old")
        async with AsyncClient(stack.address, token=fresh["acme"]) as again:
            assert (await again.explain("old")).request_id == "old"
            stack.access_file.write_text("half a li")
            assert (await again.explain("old")).request_id == "old"


async def test_the_http_port_is_open_and_names_no_tenant_request_or_text(
    model_dir: Path, tmp_path: Path
) -> None:
    def get(url: str) -> str:
        with urllib.request.urlopen(url, timeout=WITHIN_S) as response:
            body: bytes = response.read()
            return body.decode()

    tokens = issue(tmp_path / "access", ACME)
    security = SecurityConfig(access_file=tmp_path / "access")
    async with guarded(model_dir, ScriptedWorker(script=echo), security) as router:
        address = await start(router)
        async with AsyncClient(address, token=tokens["acme"]) as client:
            assert await ask(client, "my-id", "my-text", "my-salt") == "my-text"
        http = f"http://{HOST}:{router.http_port}"
        pages = [
            await asyncio.to_thread(get, f"{http}/{page}")
            for page in ("healthz", "readyz", "metrics")
        ]
    assert "pdserve_generation_tokens_total 7.0" in pages[2]
    for page in pages:
        for secret in ("acme", "my-id", "my-text", "my-salt", tokens["acme"]):
            assert secret not in page
