"""Ends of resumable requests: clients that come back are told, and nothing is held."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.router_config import RouterConfig
from pdserve.errors import (
    NotFoundError,
    Reason,
    RequestCancelledError,
    RequestTimeoutError,
    UnavailableError,
)
from tests.integration.support.resumed_streams import LATE, begin, rest, until_forgotten
from tests.integration.support.router_stack import Stack, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import ever_longer

SOON = RouterConfig(resume_grace_s=0.05)


@pytest.fixture
async def hasty(model_dir: Path, worker: ScriptedWorker) -> AsyncIterator[Stack]:
    """Yield a router that waits 50 ms."""
    async with serving(model_dir, worker, config=SOON) as stack:
        yield stack


async def test_who_does_not_come_back_frees_the_worker(
    hasty: Stack, worker: ScriptedWorker
) -> None:
    request, _ = await begin(hasty.client, worker)
    await asyncio.to_thread(worker.wait, lambda worker: worker.cancelled == [request.request_id])
    totals = await hasty.until_idle()
    assert (totals.accepted, totals.cancelled) == (1, 1)
    await until_forgotten(hasty)
    with pytest.raises(NotFoundError, match=r"ended in the last 0\.05 s") as caught:
        await rest(hasty.client, 3)
    assert caught.value.field == "request_id"


async def test_a_request_that_is_read_outlives_the_grace(
    hasty: Stack, worker: ScriptedWorker
) -> None:
    stream = hasty.client.stream("x", request_id="r", resumable=True)
    first = asyncio.ensure_future(anext(stream))
    request = await asyncio.to_thread(worker.wait_for_request)
    await asyncio.sleep(3 * SOON.resume_grace_s)  # the elapsed time is the subject of the test
    worker.say(request, "a", 0, ends=True)
    assert (await first).text == "a"
    await stream.aclose()
    await until_forgotten(hasty)


async def test_cancel_ends_it_at_once_whether_or_not_it_is_read(
    patient: Stack, worker: ScriptedWorker
) -> None:
    request, _ = await begin(patient.client, worker)
    await patient.client.cancel("r")
    await asyncio.to_thread(worker.wait, lambda worker: worker.cancelled == [request.request_id])
    await patient.until_idle()
    with pytest.raises(RequestCancelledError):  # the client is told when it comes back
        await rest(patient.client, 3)


async def test_its_deadline_ends_it_though_nobody_reads(model_dir: Path) -> None:
    """The deadline leaves time to read the beginning."""
    worker = ScriptedWorker(script=lambda worker, request: worker.say(request, "abc"))
    async with serving(model_dir, worker, config=LATE) as stack:
        for timeout_s in ever_longer(0.3):
            name = f"within-{timeout_s}"
            stream = stack.client.stream("x", request_id=name, resumable=True, timeout=timeout_s)
            try:
                assert (await anext(stream)).text == "abc"
            except RequestTimeoutError:
                continue
            await stream.aclose()
            break
        await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
        assert worker.requests[-1].request_id in worker.cancelled
        totals = await stack.until_idle()
        assert totals.accepted == totals.cancelled > 0
        with pytest.raises(RequestTimeoutError, match="the deadline passed"):
            await anext(stack.client.resume(name, 1))


async def test_what_failed_meanwhile_is_told_with_what_came_before(
    patient: Stack, worker: ScriptedWorker
) -> None:
    await begin(patient.client, worker)
    await patient.lose(0)
    stream = patient.client.resume("r", 1)
    assert text_of([await anext(stream), await anext(stream)]) == "bc"
    with pytest.raises(UnavailableError) as caught:
        await anext(stream)
    assert caught.value.reason is Reason.WORKER_LOST


async def test_a_refused_request_leaves_nothing_to_resume(
    patient: Stack, worker: ScriptedWorker
) -> None:
    await patient.lose(0)
    await patient.until(lambda status: status.workers[0].state == 3)
    with pytest.raises(UnavailableError):
        await anext(patient.client.stream("x", request_id="r", resumable=True))
    assert patient.router._resumables.num_held == 0
