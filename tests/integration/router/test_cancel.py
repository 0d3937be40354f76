"""Requests that clients leave in any way: the worker is told, and the accounts add up."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.messages import WorkRequest
from common.rpc.worker_host import WorkerHost
from pdserve.client import AsyncClient
from pdserve.errors import NotFoundError, Reason, RequestCancelledError, RequestTimeoutError
from tests.integration.support.router_stack import HOST, Stack, collect, routing, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S, ever_longer


@pytest.fixture
async def stack(model_dir: Path, worker: ScriptedWorker) -> AsyncIterator[Stack]:
    async with serving(model_dir, worker) as stack:
        yield stack


async def arrival(worker: ScriptedWorker, number: int = 1) -> WorkRequest:
    return await asyncio.to_thread(worker.wait_for_request, number)


async def until_told(worker: ScriptedWorker, *request_ids: str) -> None:
    await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
    assert worker.cancelled == list(request_ids)


async def test_cancel_ends_a_request_that_waits_for_its_first_token(
    stack: Stack, worker: ScriptedWorker
) -> None:
    waiting = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
    request = await arrival(worker)
    await stack.client.cancel("mine")
    with pytest.raises(RequestCancelledError) as caught:
        await waiting
    assert caught.value.reason is Reason.CANCELLED
    await until_told(worker, request.request_id)
    totals = await stack.until_idle()
    assert (totals.accepted, totals.cancelled) == (1, 1)


async def test_cancel_ends_a_request_that_streams(stack: Stack, worker: ScriptedWorker) -> None:
    stream = stack.client.stream("x", request_id="mine")
    first = asyncio.ensure_future(anext(stream))
    request = await arrival(worker)
    worker.say(request, "some")
    assert (await first).text == "some"
    await stack.client.cancel("mine")
    with pytest.raises(RequestCancelledError):
        await anext(stream)
    await until_told(worker, request.request_id)


async def test_what_a_worker_still_says_of_a_cancelled_request_is_not_for_the_next_of_its_id(
    stack: Stack, worker: ScriptedWorker
) -> None:
    first = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
    old = await arrival(worker)
    await stack.client.cancel("mine")
    with pytest.raises(RequestCancelledError):
        await first
    second = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
    new = await arrival(worker, 2)
    worker.say(old, "stale", 7)
    worker.say(new, "fresh", ends=True)
    assert text_of(await second) == "fresh"


async def test_what_is_not_running_cannot_be_cancelled(
    stack: Stack, worker: ScriptedWorker
) -> None:
    waiting = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
    worker.say(await arrival(worker), "all", ends=True)
    await waiting
    await stack.until_idle()
    for request_id in ("mine", "never-was", ""):
        with pytest.raises(NotFoundError) as caught:
            await stack.client.cancel(request_id)
        assert (caught.value.reason, caught.value.field) == (
            Reason.REQUEST_NOT_FOUND,
            "request_id",
        )
    assert worker.cancelled == []


@pytest.mark.parametrize("text", ["", "some"])
async def test_a_client_that_drops_its_call_frees_the_worker(
    stack: Stack, worker: ScriptedWorker, text: str
) -> None:
    stream = stack.client.stream("x")
    first = asyncio.ensure_future(anext(stream))
    request = await arrival(worker)
    if text:
        worker.say(request, text)
        await first
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await stream.aclose()
    await until_told(worker, request.request_id)
    totals = await stack.until_idle()
    assert (totals.cancelled, totals.failed) == (1, 0)


async def test_a_client_that_disconnects_frees_the_worker(
    stack: Stack, worker: ScriptedWorker
) -> None:
    async with AsyncClient(stack.address) as other:
        lost = asyncio.create_task(collect(other, "x"))
        request = await arrival(worker)
    await asyncio.gather(lost, return_exceptions=True)
    await until_told(worker, request.request_id)
    assert (await stack.until_idle()).cancelled == 1


async def test_the_deadline_reaches_the_worker_and_ends_the_request(
    stack: Stack, worker: ScriptedWorker
) -> None:
    for timeout_s in ever_longer(0.2):
        with pytest.raises(RequestTimeoutError) as caught:
            await anext(stack.client.stream("x", timeout=timeout_s))
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
        if worker.requests:
            break
    request = worker.requests[-1]
    assert request.timeout_s is not None
    assert 0 < request.timeout_s <= timeout_s
    await until_told(worker, *(request.request_id for request in worker.requests))
    totals = await stack.until_idle()
    assert totals.accepted == totals.cancelled >= len(worker.requests)


async def test_without_a_deadline_the_worker_gets_none(
    stack: Stack, worker: ScriptedWorker
) -> None:
    waiting = asyncio.create_task(collect(stack.client, "x"))
    request = await arrival(worker)
    assert request.timeout_s is None
    worker.say(request, "done", ends=True)
    await waiting


async def test_two_routers_may_give_one_worker_the_same_request_id(
    model_dir: Path, worker: ScriptedWorker
) -> None:
    host = WorkerHost(worker, HOST)
    address = host.start()
    async with routing(model_dir, [address]) as one, routing(model_dir, [address]) as two:
        first = asyncio.create_task(collect(one.client, "x", request_id="same"))
        await arrival(worker, 1)
        second = asyncio.create_task(collect(two.client, "x", request_id="same"))
        theirs = await arrival(worker, 2)
        await one.client.cancel("same")
        with pytest.raises(RequestCancelledError):
            await first
        worker.say(theirs, "unharmed", ends=True)
        assert (await second)[0].text == "unharmed"
    await asyncio.to_thread(host.stop, WITHIN_S)


async def test_200_random_cancels_leave_nothing_in_flight(model_dir: Path) -> None:
    draw = random.Random(3)

    def mumble(worker: ScriptedWorker, request: WorkRequest) -> None:
        for index in range(draw.randrange(4)):
            worker.say(request, "x", index)

    async def leave(stack: Stack, number: int) -> None:
        stream = stack.client.stream("x", request_id=f"r{number}")
        reading = asyncio.ensure_future(anext(stream))
        way = draw.randrange(4)
        for _ in range(draw.randrange(30)):
            await asyncio.sleep(0)  # lets each be met at another point of its path
        if way == 0:
            await asyncio.gather(stack.client.cancel(f"r{number}"), return_exceptions=True)
        elif way == 1:
            await asyncio.wait({reading}, timeout=draw.uniform(0, 0.05))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await stream.aclose()

    worker = ScriptedWorker(script=mumble)
    async with serving(model_dir, worker) as stack:
        await asyncio.gather(*(leave(stack, number) for number in range(200)))
        totals = await stack.until_idle()
        await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
        assert totals.accepted == totals.cancelled > 0
        assert (totals.completed, totals.failed, totals.rejected) == (0, 0, 0)
        assert set(worker.cancelled) == {request.request_id for request in worker.requests}
