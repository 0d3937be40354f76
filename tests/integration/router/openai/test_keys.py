"""Keys of OpenAI's API are the access file's: each is its tenant, with its limits and its cache."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from common.config import SecurityConfig
from common.messages import WorkRequest
from common.router_config import RouterConfig, TenantLimits
from tests.certificates import Authority, touch_later
from tests.integration.support.guarded_router import ACME, OPS, ZETA, guarded, issue, start
from tests.integration.support.router_stack import HOST, MODEL
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

ASKED = {"model": MODEL, "prompt": "abc"}
HOLD = {"model": MODEL, "prompt": "hold", "stream": True}


def say_salt(worker: ScriptedWorker, request: WorkRequest) -> None:
    """Answer with the salt that keeps the request's cached KV apart; some prompts have to wait."""
    is_held = bytes(request.prompt_token_ids) == b"hold"
    worker.say(request, request.cache_salt, ends=not is_held)


@asynccontextmanager
async def fronted(
    folder: Path, security: SecurityConfig, trust: ssl.SSLContext | bool = True
) -> AsyncIterator[httpx2.AsyncClient]:
    limits = RouterConfig(tenants={ZETA.name: TenantLimits(max_requests=1)})
    worker = ScriptedWorker(script=say_salt)
    async with guarded(write_folder(folder / "model"), worker, security, config=limits) as router:
        await start(router)
        port = await router.serve_openai(HOST, 0)
        scheme = "https" if security.tls_cert_file else "http"
        async with httpx2.AsyncClient(
            base_url=f"{scheme}://{HOST}:{port}", verify=trust, timeout=WITHIN_S, trust_env=False
        ) as client:
            yield client


def key(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_key_is_its_tenant(tmp_path: Path) -> None:
    tokens = issue(tmp_path / "access", ACME, ZETA)
    async with fronted(tmp_path, SecurityConfig(access_file=tmp_path / "access")) as client:
        for name in ("acme", "zeta"):
            response = await client.post("/v1/completions", json=ASKED, headers=key(tokens[name]))
            assert response.json()["choices"][0]["text"] == f"{name}/"


@pytest.mark.parametrize("headers", [{}, key("nobody's"), {"Authorization": "Basic abc"}])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/tiny"])
async def test_without_a_key_there_is_nothing_to_see(
    tmp_path: Path, headers: dict[str, str], path: str
) -> None:
    issue(tmp_path / "access", ACME)
    async with fronted(tmp_path, SecurityConfig(access_file=tmp_path / "access")) as client:
        response = await client.get(path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        for opened in ("/health", "/version", "/openapi.json"):
            assert (await client.get(opened)).status_code == 200


async def test_a_tenant_s_limit_is_for_its_keys_alone(tmp_path: Path) -> None:
    tokens = issue(tmp_path / "access", ACME, ZETA)
    async with fronted(tmp_path, SecurityConfig(access_file=tmp_path / "access")) as client:
        headers = key(tokens["zeta"])
        async with client.stream("POST", "/v1/completions", json=HOLD, headers=headers) as held:
            assert held.status_code == 200
            response = await client.post("/v1/completions", json=ASKED, headers=headers)
            assert (response.status_code, "zeta" in response.text) == (429, True)
            others = await client.post("/v1/completions", json=ASKED, headers=key(tokens["acme"]))
            assert others.status_code == 200


async def test_what_runs_for_a_key_that_is_taken_away_ends(tmp_path: Path) -> None:
    tokens = issue(tmp_path / "access", ACME)
    headers = key(tokens["acme"])
    async with (
        fronted(tmp_path, SecurityConfig(access_file=tmp_path / "access")) as client,
        client.stream("POST", "/v1/completions", json=HOLD, headers=headers) as held,
    ):
        lines = held.aiter_lines()
        assert "acme/" in await anext(lines)
        issue(tmp_path / "access", OPS)
        async with asyncio.timeout(WITHIN_S):
            rest = "".join([line async for line in lines])
        assert "the key is unknown or no longer valid" in rest
        assert rest.endswith("data: [DONE]")


async def test_https_uses_a_new_certificate_from_the_next_connection_on(tmp_path: Path) -> None:
    first, second = Authority(), Authority()
    pair = first.issue(tmp_path / "server", "localhost", HOST)
    security = SecurityConfig(tls_cert_file=pair.chain, tls_key_file=pair.key)
    trust = ssl.create_default_context(cadata=first.pem.decode())
    async with fronted(tmp_path, security, trust) as client:
        assert (await client.post("/v1/completions", json=ASKED)).status_code == 200
        newer = second.issue(tmp_path / "newer", "localhost", HOST)
        for old, new in ((pair.chain, newer.chain), (pair.key, newer.key)):
            old.write_bytes(new.read_bytes())
            touch_later(old)
        trusted = ssl.create_default_context(cadata=second.pem.decode())
        async with asyncio.timeout(WITHIN_S):
            while not await answers(str(client.base_url), trusted):
                await asyncio.sleep(0.05)


async def answers(url: str, trust: ssl.SSLContext) -> bool:
    async with httpx2.AsyncClient(base_url=url, verify=trust, trust_env=False) as client:
        try:
            return (await client.get("/health")).status_code == 200
        except httpx2.ConnectError:
            return False
