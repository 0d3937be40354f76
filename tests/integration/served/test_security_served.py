"""Deployment with TLS and an access file: its callers, its open ports and its logs."""

import json
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import yaml
from openai import AuthenticationError, BadRequestError, DefaultHttpxClient, OpenAI

from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.errors import InvalidRequestError, Reason, RequestError
from pdserve.v1 import inference_pb2
from tests.certificates import Authority
from tests.integration.support.commands import run_here
from tests.integration.support.guarded_router import ACME, OPS, Metadata, bearer, issue, outcome
from tests.integration.support.processes import Served, run_cli, serving
from tests.integration.support.router_stack import HOST

pytestmark = pytest.mark.deployment

SHORT = inference_pb2.SamplingParams(max_tokens=2)
MARKER = "xylophone-quagmire"  # a word neither of the code nor of a library


@dataclass(frozen=True, slots=True)
class Guarded:
    """Deployment and credentials that a test drives."""

    served: Served
    tokens: dict[str, str]
    authority: Path
    logs: Path

    def client(self, tenant: str) -> AsyncClient:
        token, roots = self.tokens[tenant], self.authority.read_bytes()
        return AsyncClient(self.served.grpc, token=token, root_certificates=roots)

    def flags(self, tenant: str | None) -> list[str]:
        """Return the command line flags that reach the deployment as a tenant."""
        flags = ["--address", self.served.grpc, "--tls-ca", str(self.authority)]
        return [*flags, "--token", self.tokens[tenant]] if tenant else flags

    def api(self, tenant: str = "acme", key: str | None = None) -> OpenAI:
        """Return a client of OpenAI's API, with its tenant's token or another key."""
        key = key or self.tokens[tenant]
        trust = ssl.create_default_context(cafile=str(self.authority))
        http = DefaultHttpxClient(verify=trust)
        return OpenAI(base_url=self.served.openai, api_key=key, max_retries=0, http_client=http)

    def process(self, name: str) -> psutil.Process:
        """Return the deployment's process of this name."""
        (found,) = (process for process in self.served.family() if process.name() == name)
        return found


@pytest.fixture(scope="module")
def guarded(model: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("secrets")
    authority, tokens = Authority(), issue(folder / "access", ACME, OPS)
    pair = authority.issue(folder / "server", "localhost", HOST)
    settings = yaml.safe_load(Path("tests/integration/support/small.yaml").read_text())
    settings["security"] = {
        "access_file": str(folder / "access"),
        "tls_cert_file": str(pair.chain),
        "tls_key_file": str(pair.key),
    }
    settings["openai_port"] = 0
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    logs = folder / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(logs))
        with serving(model.name, "--config", str(folder / "config.yaml")) as served:
            yield Guarded(served, tokens, authority.write(folder / "authority.pem"), logs)


def test_commands_reach_it_with_a_token_and_fail_in_one_line_without(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["generate", "Hi", "--max-tokens", "2"]
    ended = run_here(*asked, *guarded.flags(None))
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "authorization" in ended.stderr
    ended = run_here("status", *guarded.flags("acme"))
    assert (ended.returncode, "for admins" in ended.stderr) == (1, True)
    monkeypatch.setenv("PDSERVE_TOKEN", guarded.tokens["acme"])
    ended = run_cli(*asked, *guarded.flags(None))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_openais_api_answers_with_a_key_alone(guarded: Guarded) -> None:
    ask: dict[str, Any] = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 4,
    }
    assert guarded.served.openai.startswith("https://")
    with (
        guarded.api(key="sk-of-nobody-at-all-here") as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.chat.completions.create(**ask)
    with guarded.api() as acme:
        parts = list(acme.chat.completions.create(**ask, temperature=0, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts).startswith("The capital")
    shown = [" ".join(process.cmdline()) for process in guarded.served.family()]
    assert not [line for line in shown if guarded.tokens["acme"] in line]


async def test_its_tenant_shares_no_cached_kv_with_others(guarded: Guarded) -> None:
    text = f"Once upon a time there were {', '.join(map(str, range(50)))} and"

    async def cached_by(tenant: str) -> int:
        async with guarded.client(tenant) as client:
            return (await client.generate(text, SHORT)).usage.cached_tokens

    def cached_by_openai(tenant: str) -> int:
        with guarded.api(tenant) as api:
            usage = api.completions.create(model="smollm2-135m", prompt=text, max_tokens=2).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert [await cached_by("acme") > 0 for _ in range(2)] == [False, True]
    assert cached_by_openai("acme") > 0  # whichever face a tenant comes by
    assert [cached_by_openai("ops") > 0 for _ in range(2)] == [False, True]
    assert await cached_by("ops") > 0


async def test_only_the_router_talks_to_workers(guarded: Guarded) -> None:
    async with guarded.client("ops") as client:
        workers = (await client.status()).workers
    assert len(workers) == 2
    strangers: list[Metadata] = [(), bearer(guarded.tokens["ops"])]
    for worker in workers:
        assert worker.address.startswith(f"{HOST}:")
        async with grpc.aio.insecure_channel(worker.address) as channel:
            for metadata in strangers:
                code, _ = await outcome(channel, ("/pdserve.v1.Worker/Connect", True), metadata)
                assert code is grpc.StatusCode.UNAUTHENTICATED


def test_our_own_ports_are_on_loopback(guarded: Guarded) -> None:
    launcher = psutil.Process(guarded.served.process.pid)
    addresses = {connection.laddr for connection in launcher.net_connections("tcp")}
    openai = guarded.served.openai.removeprefix("https://").removesuffix("/v1")
    for text in (guarded.served.grpc, guarded.served.http, openai):
        host, _, port = text.rpartition(":")
        bound = next(ip for ip, number in addresses if number == int(port))
        assert bound.removeprefix("::ffff:") == host == HOST  # gRPC binds IPv4 through IPv6


@pytest.mark.parametrize("advisory", ["CVE-2023-48022"])
async def test_ray_is_closed_to_who_has_no_token_and_shows_no_dashboard(
    advisory: str, guarded: Guarded
) -> None:
    """ShadowRay: a client that reached a Ray's dashboard or client port could run code there."""
    control = guarded.process("gcs_server")
    port = next(c.laddr[1] for c in control.net_connections("tcp") if c.status == "LISTEN")
    method = ("/ray.rpc.NodeInfoGcsService/GetClusterId", False)
    attempts: list[Metadata] = [(), bearer("0" * 64)]
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        for metadata in attempts:
            code, _ = await outcome(channel, method, metadata)
            assert code is grpc.StatusCode.UNAUTHENTICATED
    dashboards = [p for p in guarded.served.family() if "dashboard.py" in " ".join(p.cmdline())]
    listening = [c for p in dashboards for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert [c.laddr for c in listening if c.laddr[0] not in (HOST, "::1")] == []


async def test_no_text_salt_or_token_is_written_down(guarded: Guarded) -> None:
    bad = inference_pb2.SamplingParams(max_tokens=10**6, stop=[MARKER])
    good = inference_pb2.SamplingParams(max_tokens=4, stop=[MARKER])
    regex = inference_pb2.SamplingParams(
        max_tokens=4, structured_output=inference_pb2.StructuredOutput(regex=f"({MARKER}")
    )
    text = f"Say {MARKER} and more, {' '.join(map(str, range(200)))}."  # several prefill chunks
    reasons = []
    async with guarded.client("acme") as client:
        for sampling in (good, bad, regex):
            request = inference_pb2.GenerateRequest(text=text, sampling=sampling, cache_salt=MARKER)
            try:
                async for _ in client.send(request):
                    pass
            except InvalidRequestError as error:
                reasons.append(error.reason)
        chat = inference_pb2.GenerateRequest(model=MARKER)
        chat.chat.messages.add(role=MARKER, content=MARKER)
        with pytest.raises(RequestError):
            async for _ in client.send(chat):
                pass
    assert reasons == [Reason.CONTEXT_EXCEEDED, Reason.INVALID_FIELD]
    ran = inference_pb2.GenerateRequest(text=text)
    async with AsyncClient(guarded.served.grpc, token=MARKER) as stranger:
        with pytest.raises(RequestError):
            async for _ in stranger.send(ran):
                pass
    _ask_openai(guarded, text)
    written = _everything_logged(guarded)
    assert "worker_ready" in written  # so the right files were read
    ends = [json.loads(line) for line in written.splitlines() if '"request_ended"' in line]
    assert {"completed", "rejected"} <= {line["outcome"] for line in ends}
    for secret in (MARKER, *guarded.tokens.values()):
        assert secret not in written


def _ask_openai(guarded: Guarded, text: str) -> None:
    """Send the marker in an answer's request, in one that is refused, and in a key."""
    with guarded.api() as acme:
        acme.completions.create(model="smollm2-135m", prompt=text, stop=[MARKER], max_tokens=4)
        with pytest.raises(BadRequestError):
            acme.completions.create(
                model="smollm2-135m", prompt=text, user=MARKER, extra_body={MARKER: MARKER}
            )
    with guarded.api(key=f"sk-{MARKER}") as nobody, pytest.raises(AuthenticationError):
        nobody.completions.create(model="smollm2-135m", prompt=text)


def _everything_logged(guarded: Guarded) -> str:
    """Return the launcher's stderr so far, the workers' output, and all of Ray's logs."""
    stderr = guarded.served.process.stderr
    assert stderr is not None
    os.set_blocking(stderr.fileno(), False)
    texts = [stderr.read() or ""]
    control = guarded.process("gcs_server")
    (argument,) = (word for word in control.cmdline() if word.startswith("--log_dir="))
    folder = Path(argument.partition("=")[2])
    files = [*folder.rglob("*"), *guarded.logs.rglob("*")]
    texts += [file.read_text(errors="replace") for file in files if file.is_file()]
    return "\n".join(texts)


def test_a_router_beyond_loopback_is_refused_before_anything_starts() -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    ended = run_here("serve", "--grpc-host", "0.0.0.0", "--grpc-port", str(port))
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = [line for line in ended.stderr.splitlines() if line.strip()]
    assert "--insecure" in line
