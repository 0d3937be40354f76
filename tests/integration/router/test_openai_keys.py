"""OpenAI's API before a router that authenticates: keys and TLS, and a tenant's rights."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from openai import AsyncOpenAI, AuthenticationError, DefaultAsyncHttpxClient, RateLimitError
from structlog.testing import capture_logs

from common.config import RouterConfig, SecurityConfig, ServeConfig, TenantLimits
from common.messages import WorkRequest
from deploy.openai_access import openai_access
from deploy.openai_gateway import OpenAiGateway
from pdserve.errors import Reason
from router.access.gateway_port import GatewayPort
from router.access.tenant import Tenant
from tests.certificates import Authority, touch_later
from tests.integration.support.guarded_router import ACME, guarded, issue, outcome, start
from tests.integration.support.router_stack import HOST, MODEL
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import write_folder

WITHIN_S = 30.0
WEB = Tenant("web")
ALICES, HER_NEXT, BOBS = "sk-alices-first-key", "sk-alices-second-key", "sk-bobs-own-key-here"
GENERATE = ("/vllm.grpc.engine.VllmEngine/Generate", False)
HOLD = "hold"


def say_salt(worker: ScriptedWorker, request: WorkRequest) -> None:
    """Answer with the salt of the request's cached KV; some prompts have to wait."""
    if bytes(request.prompt_token_ids) != HOLD.encode():
        worker.say(request, request.cache_salt, ends=True)


@dataclass(frozen=True, slots=True)
class Fronted:
    """Gateway and clients that a test drives."""

    url: str
    worker: ScriptedWorker
    keys: Path
    trust: ssl.SSLContext

    async def complete(self, key: str, prompt: str = "abc") -> str:
        """Return the answer to the prompt."""
        async with AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(verify=self.trust),
        ) as client:
            answer = await client.completions.create(model=MODEL, prompt=prompt)
        return answer.choices[0].text

    async def complete_without_key(self) -> int:
        """Return the HTTP status of a request without Authorization."""
        async with DefaultAsyncHttpxClient(verify=self.trust) as client:
            body = {"model": MODEL, "prompt": "abc"}
            response = await client.post(f"{self.url}/v1/completions", json=body)
        return response.status_code


def write_keys(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    touch_later(file)
    return file


@pytest.fixture
async def fronted(tmp_path: Path) -> AsyncIterator[Fronted]:
    """Yield an access file without the gateway's tenant, TLS on both ports, two clients' keys."""
    authority, worker = Authority(), ScriptedWorker(script=say_salt)
    issue(tmp_path / "access", ACME)
    pair = authority.issue(tmp_path / "server", "localhost", HOST)
    security = SecurityConfig(
        access_file=tmp_path / "access", tls_cert_file=pair.chain, tls_key_file=pair.key
    )
    keys = write_keys(tmp_path / "keys", f"alice {ALICES}", f"bob {BOBS}")
    limits = RouterConfig(tenants={WEB.name: TenantLimits(max_requests=1)})
    model_dir = write_folder(tmp_path / "model")
    async with guarded(model_dir, worker, security, config=limits) as router:
        await start(router)
        address = await router.open_to_gateway(WEB)
        access = openai_access(ServeConfig(security=security, openai_keys_file=keys))
        gateway = OpenAiGateway(address, HOST, 0, access=access)
        await gateway.start(WITHIN_S)
        trust = ssl.create_default_context(cadata=authority.pem.decode())
        try:
            yield Fronted(f"https://{HOST}:{gateway.port}", worker, keys, trust)
        finally:
            await gateway.stop()


async def test_keys_lead_to_the_tenant_with_its_limits_and_its_own_cache(fronted: Fronted) -> None:
    assert await fronted.complete_without_key() == 401
    with pytest.raises(AuthenticationError, match="Invalid API key"):
        await fronted.complete(ALICES + "x")
    assert not fronted.worker.requests
    for key in (ALICES, BOBS):
        assert await fronted.complete(key) == "web/"
    held = asyncio.create_task(fronted.complete(ALICES, HOLD))
    request = await asyncio.to_thread(fronted.worker.wait_for_request, 3)
    with pytest.raises(RateLimitError, match="tenant web has 1 requests in flight"):
        await fronted.complete(BOBS)
    fronted.worker.say(request, "done", ends=True)
    assert await held == "done"


async def test_a_change_of_the_keys_counts_soon_and_a_bad_one_not_at_all(
    fronted: Fronted,
) -> None:
    with capture_logs() as logs:

        async def until_logged(event: str) -> None:
            async with asyncio.timeout(WITHIN_S):
                while event not in (entry["event"] for entry in logs):
                    await asyncio.sleep(0.02)

        write_keys(fronted.keys, "half a line without its key, and more")
        await until_logged("files_refused")
        assert await fronted.complete(ALICES) == "web/"
        write_keys(fronted.keys, f"alice {HER_NEXT}")
        await until_logged("openai_gateway_restarted")
    assert await fronted.complete(HER_NEXT) == "web/"
    for gone in (ALICES, BOBS):
        with pytest.raises(AuthenticationError):
            await fronted.complete(gone)


async def test_the_gateways_own_port_serves_our_user_alone_and_one_contract_alone(
    tmp_path: Path,
) -> None:
    refused = (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIALS_INVALID)
    issue(tmp_path / "access", ACME)
    security = SecurityConfig(access_file=tmp_path / "access")
    model_dir = write_folder(tmp_path / "model")
    async with guarded(model_dir, ScriptedWorker(), security) as router:
        await start(router)
        async with grpc.aio.insecure_channel(await router.open_to_gateway(WEB)) as ours:
            healthy = await outcome(ours, ("/vllm.grpc.engine.VllmEngine/HealthCheck", False), ())
            assert healthy == (grpc.StatusCode.OK, "")
            for other in ("Inference/Generate", "Admin/Status"):
                code, _ = await outcome(ours, (f"/pdserve.v1.{other}", False), ())
                assert code is grpc.StatusCode.UNIMPLEMENTED
        theirs = GatewayPort(WEB, uid=os.geteuid() + 1)
        address = await theirs.start(router._add_vllm)
        async with grpc.aio.insecure_channel(address) as channel:
            assert await outcome(channel, GENERATE, ()) == refused
        await theirs.stop(0.0)
