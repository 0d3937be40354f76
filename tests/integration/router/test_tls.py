"""TLS at the router's gRPC port: accepted clients, and new certificates under a running stream."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.config import SecurityConfig
from common.messages import FinishReason, SequenceOutput
from pdserve.client import AsyncClient
from pdserve.errors import Reason, UnauthenticatedError, UnavailableError
from pdserve.v1 import inference_pb2
from tests.certificates import Authority, Pair, touch_later
from tests.integration.support.guarded_router import ACME, ZETA, guarded, issue, start
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

SERVER = ("localhost", HOST)


@dataclass(frozen=True, slots=True)
class Secured:
    """A router with TLS that demands certificates of its clients."""

    address: str
    worker: ScriptedWorker
    folder: Path
    authority: Authority
    server: Pair
    tokens: dict[str, str]

    def client(self, *names: str, token: str | None = None) -> AsyncClient:
        """Return a client with a certificate for these names."""
        pair = self.authority.issue(self.folder / "client", *names)
        return AsyncClient(
            self.address,
            token=token,
            root_certificates=self.authority.pem,
            client_certificate=pair.contents(),
        )


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    authority, worker = Authority(), ScriptedWorker()
    pair = authority.issue(tmp_path / "server", *SERVER)
    lines = ["acme user san:acme.example", "ops admin san:ops@example.org"]
    tokens = issue(tmp_path / "access", ZETA, lines=lines)
    security = SecurityConfig(
        access_file=tmp_path / "access",
        tls_cert_file=pair.chain,
        tls_key_file=pair.key,
        tls_client_ca_file=authority.write(tmp_path / "authority.pem"),
    )
    model_dir = write_folder(tmp_path / "model")
    async with guarded(model_dir, worker, security) as router:
        address = await start(router)
        yield Secured(address, worker, tmp_path, authority, pair, tokens)


async def ask(client: AsyncClient) -> str:
    request = inference_pb2.GenerateRequest(request_id="job", text="hello")
    return "".join([response.text async for response in client.send(request)])


async def salt_of(secured: Secured, client: AsyncClient, number: int) -> str:
    """Return the salt that the worker gets for the number-th request."""
    running = asyncio.create_task(ask(client))
    request = await asyncio.to_thread(secured.worker.wait_for_request, number)
    secured.worker.say(request, "done", ends=True)
    await running
    return request.cache_salt


def served_certificate(address: str, secured: Secured, client: Pair) -> bytes:
    """Return the certificate that a new connection gets, DER."""
    context = ssl.create_default_context(cadata=secured.authority.pem.decode())
    context.load_cert_chain(client.chain, client.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=WITHIN_S) as raw,
        context.wrap_socket(raw, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def test_a_certificates_names_lead_to_the_tenant_and_its_role(secured: Secured) -> None:
    async with secured.client("other.example", "acme.example") as acme:
        assert await salt_of(secured, acme, 1) == f"{ACME.name}/"
    async with secured.client("ops@example.org") as ops:
        assert (await ops.status()).router.model == "tiny"


async def test_a_token_goes_before_the_certificate(secured: Secured) -> None:
    async with secured.client("acme.example", token=secured.tokens["zeta"]) as client:
        assert await salt_of(secured, client, 1) == f"{ZETA.name}/"
    async with secured.client("acme.example", token="pds_unknown") as client:
        with pytest.raises(UnauthenticatedError):
            await ask(client)


async def test_a_certificate_that_nobody_has_listed_is_unauthenticated(secured: Secured) -> None:
    async with secured.client("acme.example.org") as client:
        with pytest.raises(UnauthenticatedError, match="certificate's names") as caught:
            await ask(client)
    assert caught.value.reason is Reason.CREDENTIALS_INVALID


async def test_no_certificate_a_strangers_and_no_tls_get_no_connection(secured: Secured) -> None:
    stranger = Authority().issue(secured.folder / "stranger", "acme.example")
    roots, token = secured.authority.pem, secured.tokens["zeta"]
    clients = [
        AsyncClient(secured.address, token=token, root_certificates=roots),
        AsyncClient(
            secured.address, root_certificates=roots, client_certificate=stranger.contents()
        ),
        AsyncClient(secured.address, token=token),
        # a client that does not know the router's authority refuses to talk to it
        AsyncClient(secured.address, token=token, root_certificates=Authority().pem),
    ]
    for client in clients:
        async with client:
            with pytest.raises(UnavailableError):
                await ask(client)
    assert not secured.worker.requests


async def test_new_certificates_are_shown_to_new_connections_and_streams_go_on(
    secured: Secured,
) -> None:
    visitor = secured.authority.issue(secured.folder / "visitor", "acme.example")

    async def shown() -> bytes:
        return await asyncio.to_thread(served_certificate, secured.address, secured, visitor)

    async with secured.client("acme.example") as client:
        running = asyncio.create_task(ask(client))
        request = await asyncio.to_thread(secured.worker.wait_for_request)
        secured.worker.say(request, "before, ")
        first = await shown()
        assert await shown() == first
        secured.authority.issue(secured.folder / "server", *SERVER)
        second = await shown()
        assert second != first
        # after half a change, or a file that is no certificate, the last good one stays
        other = secured.authority.issue(secured.folder / "other", *SERVER)
        secured.server.key.write_bytes(other.key.read_bytes())
        touch_later(secured.server.key)
        assert await shown() == second
        secured.server.chain.write_text("nonsense")
        touch_later(secured.server.chain)
        assert await shown() == second
        secured.server.chain.write_bytes(other.chain.read_bytes())
        touch_later(secured.server.chain)
        assert await shown() not in (first, second)
        secured.worker.publish(
            SequenceOutput(request.request_id, 8, tuple(b"after"), FinishReason.STOP)
        )
        assert await running == "before, after"
