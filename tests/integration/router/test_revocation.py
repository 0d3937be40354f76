"""Revoked credentials: running requests end as refused, without effects on others."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.config import SecurityConfig
from pdserve.client import AsyncClient
from pdserve.errors import Reason, UnauthenticatedError
from pdserve.v1 import inference_pb2
from tests.certificates import Authority
from tests.integration.support.guarded_router import ACME, ZETA, guarded, issue, start
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder


async def ask(client: AsyncClient) -> str:
    request = inference_pb2.GenerateRequest(text="hello")
    return "".join([response.text async for response in client.send(request)])


async def refusal_of(running: "asyncio.Task[str]") -> UnauthenticatedError:
    with pytest.raises(UnauthenticatedError) as caught:
        async with asyncio.timeout(WITHIN_S):
            await running
    return caught.value


async def test_streams_end_soon_after_their_token_is_taken_away_and_others_go_on(
    tmp_path: Path,
) -> None:
    worker, file = ScriptedWorker(), tmp_path / "access"
    tokens = issue(file, ACME, ZETA)
    kept = next(line for line in file.read_text().splitlines() if "zeta" in line)
    security = SecurityConfig(access_file=file)
    async with guarded(write_folder(tmp_path / "model"), worker, security) as router:
        address = await start(router)
        async with (
            AsyncClient(address, token=tokens["acme"]) as acme,
            AsyncClient(address, token=tokens["zeta"]) as zeta,
            grpc.aio.insecure_channel(address) as channel,
        ):
            revoked = asyncio.create_task(ask(acme))
            request = await asyncio.to_thread(worker.wait_for_request, 1)
            worker.say(request, "half of it")
            going_on = asyncio.create_task(ask(zeta))
            other = await asyncio.to_thread(worker.wait_for_request, 2)
            raw: Any = channel  # calls bytes
            probe = raw.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            await probe.read()
            issue(file, ACME, lines=[kept])
            error = await refusal_of(revoked)
            assert error.reason is Reason.CREDENTIALS_INVALID
            assert "no longer valid" in str(error)
            await asyncio.to_thread(worker.wait, lambda it: it.cancelled == [request.request_id])
            worker.say(other, "whole", ends=True)
            assert await going_on == "whole"
            assert not probe.done()
            probe.cancel()


async def test_so_do_those_of_a_certificate_that_is_not_listed_any_more(tmp_path: Path) -> None:
    worker, file, authority = ScriptedWorker(), tmp_path / "access", Authority()
    issue(file, lines=["acme user san:acme.example"])
    pair = authority.issue(tmp_path / "server", "localhost", HOST)
    security = SecurityConfig(
        access_file=file,
        tls_cert_file=pair.chain,
        tls_key_file=pair.key,
        tls_client_ca_file=authority.write(tmp_path / "authority.pem"),
    )
    visitor = authority.issue(tmp_path / "visitor", "acme.example").contents()
    async with guarded(write_folder(tmp_path / "model"), worker, security) as router:
        address = await start(router)
        async with AsyncClient(
            address, root_certificates=authority.pem, client_certificate=visitor
        ) as acme:
            running = asyncio.create_task(ask(acme))
            await asyncio.to_thread(worker.wait_for_request)
            issue(file, lines=["acme user san:another.example"])
            assert "certificate's names" in str(await refusal_of(running))
