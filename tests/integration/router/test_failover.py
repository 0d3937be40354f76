"""Clients of several routers, and streams that are read on by themselves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from pdserve import failover
from pdserve.client import AsyncClient
from pdserve.errors import Reason, UnavailableError
from pdserve.sync_client import Client
from tests.integration.support.processes import run_cli
from tests.integration.support.router_stack import HOST, Stack, routing, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.integration.support.tcp_relay import relaying
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

DEAD = f"{HOST}:1"  # no process listens there


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@asynccontextmanager
async def two_routers(
    model_dir: Path, worker: ScriptedWorker
) -> AsyncIterator[tuple[Stack, Stack]]:
    """Yield two routers of one worker."""
    host = WorkerHost(worker, HOST)
    try:
        addresses = [host.start()]
        async with routing(model_dir, addresses) as one, routing(model_dir, addresses) as other:
            yield one, other
    finally:
        await asyncio.to_thread(host.stop, WITHIN_S)


async def test_a_router_that_is_not_there_is_passed_over(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        async with AsyncClient([DEAD, stack.address]) as client:
            assert (await client.generate("abc")).text == "abc"
            assert (await client.tokenize("abc")).num_tokens == 3
            assert (await client.status()).router.totals.completed == 1

        def ask() -> str:
            with Client(f"{DEAD},{stack.address}") as client:
                assert client.models()
                return client.generate("def").text

        assert await asyncio.to_thread(ask) == "def"
        shown = await asyncio.to_thread(
            run_cli, "status", "--address", f"{DEAD},{stack.address}", "--json"
        )
        assert shown.returncode == 0, shown.stderr
        with pytest.raises(UnavailableError) as caught:
            async with AsyncClient([DEAD, DEAD], retries=False) as client:
                await client.generate("abc")
        assert caught.value.reason is Reason.ROUTER_UNREACHABLE


async def test_a_router_that_shuts_down_sends_its_clients_to_the_next(model_dir: Path) -> None:
    async with two_routers(model_dir, ScriptedWorker(script=echo)) as (one, other):
        async with AsyncClient([one.address, other.address], retries=False) as client:
            assert (await client.generate("abc", request_id="r")).text == "abc"
            one.router._admission.drain()
            assert (await client.generate("abc", request_id="r")).text == "abc"
        totals = [(await s.client.status()).router.totals for s in (one, other)]
        assert [(t.completed, t.rejected) for t in totals] == [(1, 1), (1, 0)]


async def test_a_stream_that_has_begun_goes_nowhere_else(model_dir: Path) -> None:
    worker = ScriptedWorker(script=lambda worker, request: worker.say(request, "a"))
    async with two_routers(model_dir, worker) as (one, other):
        async with AsyncClient([one.address, other.address]) as client:
            stream = client.stream("x")
            assert (await anext(stream)).text == "a"
            await one.router.stop(0.0)
            with pytest.raises(UnavailableError) as caught:
                await anext(stream)
            assert caught.value.reason is Reason.SHUTTING_DOWN
        assert (await other.until_idle()).accepted == 0


async def test_a_change_is_asked_of_one_router_that_answers(model_dir: Path) -> None:
    workers = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    async with serving(model_dir, *workers) as stack, AsyncClient([DEAD, stack.address]) as client:
        await client.drain("decode-1")
        assert [worker.name for worker in (await client.status()).workers] == ["decode-0"]


async def test_a_resumable_stream_is_read_on_over_breaks(model_dir: Path) -> None:
    worker = ScriptedWorker()
    config = RouterConfig(resume_grace_s=600.0)
    async with (
        serving(model_dir, worker, config=config) as stack,
        relaying(stack.address) as (address, relay),
        AsyncClient(address) as client,
    ):
        stream = client.stream("x", resumable=True)
        first = asyncio.ensure_future(anext(stream))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "one ", 0)
        read = [await first]
        relay.lose()
        worker.say(request, "two ", 4)
        read.append(await anext(stream))
        relay.lose()
        worker.say(request, "three", 8, ends=True)
        read += [part async for part in stream]
        totals = await stack.until_idle()
    assert text_of(read) == "one two three"
    assert [part.sequence for part in read] == [0, 1, 2]
    assert (totals.accepted, totals.completed, len(worker.requests)) == (1, 1, 1)


async def test_a_resumable_stream_of_a_sync_client_is_read_on_too(model_dir: Path) -> None:
    worker = ScriptedWorker()
    config = RouterConfig(resume_grace_s=600.0)
    async with (
        serving(model_dir, worker, config=config) as stack,
        relaying(stack.address) as (address, relay),
    ):
        has_come = asyncio.Event()
        loop = asyncio.get_running_loop()

        def read() -> str:
            with Client(address) as client:
                text = ""
                for part in client.stream("x", resumable=True, timeout=WITHIN_S):
                    text += part.text
                    loop.call_soon_threadsafe(has_come.set)
                return text

        reading = asyncio.create_task(asyncio.to_thread(read))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "one ", 0)
        async with asyncio.timeout(WITHIN_S):
            await has_come.wait()
        relay.lose()
        worker.say(request, "two", 4, ends=True)
        assert await reading == "one two"


async def test_a_router_that_is_gone_for_good_ends_the_stream(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "RESUME_WITHIN_S", 0.2)
    worker = ScriptedWorker(script=lambda worker, request: worker.say(request, "a"))
    async with (
        serving(model_dir, worker) as stack,
        relaying(stack.address) as (address, relay),
        AsyncClient(address) as client,
    ):
        stream = client.stream("x", resumable=True)
        assert (await anext(stream)).text == "a"
        relay.redirect(DEAD)
        relay.lose()
        with pytest.raises(UnavailableError) as caught:
            await anext(stream)
        assert caught.value.reason is Reason.ROUTER_UNREACHABLE
