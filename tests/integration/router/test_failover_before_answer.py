"""Resumable streams whose connection breaks before their first message: nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.messages import WorkRequest
from common.router_config import RouterConfig
from pdserve.client import AsyncClient
from pdserve.errors import Reason, UnavailableError
from pdserve.sync_client import Client
from tests.integration.support.router_stack import HOST, Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.integration.support.tcp_relay import Relay, relaying
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

DEAD = f"{HOST}:1"  # no process listens there
ATTEMPTS = 4  # of gRPC by itself


@dataclass(slots=True)
class Rig:
    """A router behind a relay, and its worker."""

    stack: Stack
    relay: Relay
    address: str
    worker: ScriptedWorker

    async def request(self, number: int = 1) -> WorkRequest:
        """Return the number-th request when the worker has it."""
        return await asyncio.to_thread(self.worker.wait_for_request, number)

    async def cut_each_attempt(self, *, freezes: bool = False) -> None:
        """Cut the stream as often as gRPC sends a call, each time when the router serves it.

        The next attempt comes through when the end of this one is seen. With `freezes` none comes behind
        the last cut.
        """
        (run,) = self.stack.router._resumables._running.values()
        for number in range(ATTEMPTS):
            await until(lambda: run.num_streams == 1)
            self.relay.freeze()
            self.relay.lose()
            await until(lambda: run.num_streams == 0)
            if not freezes or number < ATTEMPTS - 1:
                self.relay.heal()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    worker, config = ScriptedWorker(), RouterConfig(resume_grace_s=600.0)
    async with (
        serving(write_folder(tmp_path), worker, config=config) as stack,
        relaying(stack.address) as (address, relay),
    ):
        yield Rig(stack, relay, address, worker)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            await asyncio.sleep(0.002)


async def read_async(addresses: list[str]) -> str:
    async with AsyncClient(addresses) as client:
        return "".join(
            [part.text async for part in client.stream("x", resumable=True, timeout=WITHIN_S)]
        )


async def read_sync(addresses: list[str]) -> str:
    def read() -> str:
        with Client(addresses) as client:
            return "".join(
                part.text for part in client.stream("x", resumable=True, timeout=WITHIN_S)
            )

    return await asyncio.to_thread(read)


@asynccontextmanager
async def reading(stream: Awaitable[str]) -> AsyncIterator["asyncio.Future[str]"]:
    """Yield the task that reads; it ends with the block."""
    task = asyncio.ensure_future(stream)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


both_clients = pytest.mark.parametrize("read", [read_async, read_sync], ids=["async", "sync"])
Read = Callable[[list[str]], Awaitable[str]]


@both_clients
@pytest.mark.parametrize("others", [(), (DEAD,)], ids=["one address", "two addresses"])
async def test_a_stream_that_is_cut_more_often_than_grpc_tries_is_asked_for(
    rig: Rig, read: Read, others: tuple[str, ...]
) -> None:
    async with reading(read([rig.address, *others])) as answer:
        request = await rig.request()
        await rig.cut_each_attempt()
        rig.worker.say(request, "one ", 0)
        rig.worker.say(request, "two", 4, ends=True)
        assert await answer == "one two"
    totals = await rig.stack.until_idle()
    assert (totals.accepted, totals.completed, len(rig.worker.requests)) == (1, 1, 1)


@both_clients
async def test_an_answer_that_ended_before_grpc_sends_the_call_again_is_not_begun_anew(
    rig: Rig, read: Read
) -> None:
    async with reading(read([rig.address])) as answer:
        request = await rig.request()
        rig.relay.freeze()
        rig.relay.lose()
        rig.worker.say(request, "done", ends=True)
        await rig.stack.until_idle()
        rig.relay.heal()
        assert await answer == "done"
    assert len(rig.worker.requests) == 1


@both_clients
async def test_an_answer_that_ended_before_the_client_sends_it_again_is_not_begun_anew(
    rig: Rig, read: Read
) -> None:
    async with reading(read([rig.address])) as answer:
        request = await rig.request()
        await rig.cut_each_attempt(freezes=True)
        rig.worker.say(request, "done", ends=True)
        await rig.stack.until_idle()
        rig.relay.heal()
        assert await answer == "done"
    assert len(rig.worker.requests) == 1


async def test_a_request_that_is_sent_again_never_gets_the_answer_of_an_earlier_one_of_its_id(
    rig: Rig,
) -> None:
    async with AsyncClient(rig.address) as client:

        async def read(prompt: str) -> str:
            parts = client.stream(prompt, request_id="r", resumable=True, timeout=WITHIN_S)
            return "".join([part.text async for part in parts])

        async with reading(read("x")) as answer:
            rig.worker.say(await rig.request(), "old", ends=True)
            assert await answer == "old"
        await rig.stack.until_idle()
        num_before = rig.relay.num_accepted
        rig.relay.redirect(DEAD)
        rig.relay.lose()
        async with reading(read("y")) as answer:
            await until(lambda: rig.relay.num_accepted > num_before)
            rig.relay.redirect(rig.stack.address)
            rig.worker.say(await rig.request(2), "new", ends=True)
            assert await answer == "new"


@both_clients
async def test_a_router_that_has_forgotten_the_request_gets_it_anew(rig: Rig, read: Read) -> None:
    async with reading(read([rig.address])) as answer:
        await rig.request()
        (run,) = rig.stack.router._resumables._running.values()
        await rig.cut_each_attempt()
        assert run.task is not None
        run.task.cancel()  # as the end of the grace does
        rig.worker.say(await rig.request(2), "anew", ends=True)
        assert await answer == "anew"
    totals = await rig.stack.until_idle()
    assert (totals.completed, totals.cancelled) == (1, 1)


async def test_a_router_that_is_never_reached_fails_a_resumable_stream_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pdserve.failover.RESUME_WITHIN_S", 2 * WITHIN_S)  # would be too long
    async with asyncio.timeout(WITHIN_S):
        for addresses in ([DEAD], [DEAD, DEAD]):
            with pytest.raises(UnavailableError) as caught:
                await read_async(addresses)
            assert caught.value.reason is Reason.ROUTER_UNREACHABLE
