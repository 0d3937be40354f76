"""Tests of a request's life, and of what it gives back at each kind of end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from common.messages import WorkFailure
from pdserve.errors import (
    InternalError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestCancelledError,
    RequestError,
    RequestTimeoutError,
    UnavailableError,
)
from router.access.tenant import ANONYMOUS
from tests.unit.router.journey.routed import SLOW, make_job, read, until
from tests.unit.router.journey.world import FIRST, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.routed.check_nothing_is_held()
    assert [*made.journeys.live] == []


async def test_a_finished_request_counts_as_completed(world: World) -> None:
    task = await world.start_sent()
    assert world.routed.sent() == [("submit", FIRST)]
    world.routed.say(FIRST, "one")
    world.routed.say(FIRST, "one two", ends=True)  # a repeat, and what is new
    deltas = await task
    assert "".join(delta.text for delta in deltas) == "one two"
    assert deltas[-1].summary is not None
    assert deltas[-1].summary.num_output_tokens == 7
    assert world.routed.sent() == []
    assert world.routed.counts() == {"accepted": 1, "completed": 1}
    entry = world.routed.decisions.entry(make_job().key)
    assert entry.finished == {0: deltas[-1].summary}


async def test_the_first_token_gives_back_all_but_the_stream_and_the_decode_worker(
    world: World,
) -> None:
    routed = world.routed
    task = await world.start_sent()
    use = routed.pool.worker_use
    assert routed.pool.sent_prompts.totals("p") == (1, 100)
    assert (use.num_requests("p"), use.num_requests("d"), routed.queue._num_active) == (1, 1, 1)
    routed.say(FIRST, "o")
    await until(lambda: routed.admission.num_queued == 0)
    assert routed.pool.sent_prompts.totals("p") == (0, 0)
    assert (use.num_requests("p"), use.num_requests("d"), routed.queue._num_active) == (0, 1, 0)
    assert (routed.decode.num_live, routed.admission.num_in_flight) == (1, 1)
    assert [request.job.request_id for request in world.journeys.live] == ["r"]
    routed.say(FIRST, "k", 1, ends=True)
    await task


async def test_a_worker_s_failure_ends_the_request_as_failed(world: World) -> None:
    task = await world.start_sent()
    world.routed.fail(FIRST, WorkFailure(Reason.INTERNAL, "broken"))
    with pytest.raises(RequestError, match="broken") as caught:
        await task
    assert caught.value.reason is Reason.INTERNAL
    assert world.routed.counts() == {"accepted": 1, "failed": 1}


async def test_a_gap_in_the_tokens_ends_the_request_at_its_worker(world: World) -> None:
    task = await world.start_sent()
    world.routed.say(FIRST, "late", index=3)
    with pytest.raises(InternalError, match="token 0 is missing"):
        await task
    assert world.routed.sent() == [("submit", FIRST), ("cancel", FIRST)]
    assert world.routed.counts() == {"accepted": 1, "failed": 1}


async def test_a_lost_worker_ends_the_request_as_failed(world: World) -> None:
    task = await world.start_sent()
    world.routed.say(FIRST, "one")
    world.routed.decode._lose()
    with pytest.raises(UnavailableError) as caught:
        await task
    assert caught.value.reason is Reason.WORKER_LOST
    assert world.routed.counts() == {"accepted": 1, "failed": 1}


async def test_a_cancel_in_the_queue_reaches_no_worker(world: World) -> None:
    first, second = await world.start_queued()
    world.journeys.cancel(ANONYMOUS, "waits")
    with pytest.raises(RequestCancelledError):
        await second
    assert world.routed.queue.num_waiting == 0
    await world.finish(first)
    assert world.routed.sent() == [("submit", FIRST)]
    assert world.routed.counts() == {"accepted": 2, "completed": 1, "cancelled": 1}


async def test_a_cancel_in_the_moment_of_the_turn_is_not_lost(world: World) -> None:
    first, second = await world.start_queued()
    world.routed.say(FIRST, "ok", ends=True)
    await until(lambda: world.routed.queue.num_waiting == 0)
    world.journeys.cancel(ANONYMOUS, "waits")
    with pytest.raises(RequestCancelledError):
        await second
    await first
    assert world.routed.decode.num_live == 0
    assert world.routed.counts() == {"accepted": 2, "completed": 1, "cancelled": 1}


@pytest.mark.parametrize("has_token", [False, True])
async def test_a_cancel_while_it_runs_reaches_the_worker(world: World, has_token: bool) -> None:
    task = await world.start_sent()
    if has_token:
        world.routed.say(FIRST, "one")
        await until(lambda: world.routed.admission.num_queued == 0)
    world.journeys.cancel(ANONYMOUS, "r")
    with pytest.raises(RequestCancelledError):
        await task
    assert world.routed.sent() == [("submit", FIRST), ("cancel", FIRST)]
    assert world.routed.counts() == {"accepted": 1, "cancelled": 1}
    with pytest.raises(NotFoundError):
        world.journeys.cancel(ANONYMOUS, "r")


async def test_a_client_that_leaves_the_queue_holds_nobody_up(world: World) -> None:
    first, second = await world.start_queued()
    await until(lambda: world.routed.queue.num_waiting == 1)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert world.routed.queue.num_waiting == 0
    await world.finish(first)
    assert world.routed.counts() == {"accepted": 2, "completed": 1, "cancelled": 1}


async def test_a_client_that_leaves_while_it_reads_ends_the_work(world: World) -> None:
    async with aclosing(world.journeys.run(make_job(), None)) as deltas:
        reading = asyncio.ensure_future(anext(deltas))
        await until(lambda: world.routed.decode.num_live == 1)
        world.routed.say(FIRST, "one")
        assert (await reading).text == "one"
    assert world.routed.sent() == [("submit", FIRST), ("cancel", FIRST)]
    assert world.routed.counts() == {"accepted": 1, "cancelled": 1}


async def test_a_stop_text_ends_the_work_and_completes_the_request(world: World) -> None:
    job = make_job(stop=("wo",))
    task = asyncio.create_task(read(world.journeys, job))
    await until(lambda: world.routed.decode.num_live == 1)
    world.routed.say(FIRST, "one two")
    world.routed.say(FIRST, " three", 7)
    deltas = await task
    assert "".join(delta.text for delta in deltas) == "one t"
    assert world.routed.sent() == [("submit", FIRST), ("cancel", FIRST)]
    assert world.routed.counts() == {"accepted": 1, "completed": 1}


async def test_a_deadline_in_the_queue_ends_the_request_as_cancelled(world: World) -> None:
    first, second = await world.start_queued(timeout_s=0.01)
    with pytest.raises(RequestTimeoutError, match="in the queue"):
        await second
    await world.finish(first)
    assert world.routed.counts() == {"accepted": 2, "completed": 1, "cancelled": 1}


async def test_a_refused_request_holds_nothing_and_is_told_when_to_come_again(
    world: World,
) -> None:
    routed = world.routed
    assert routed.prefill.info is not None
    routed.introduce(routed.prefill, routed.prefill.info.role, SLOW)
    with pytest.raises(OverloadedError) as caught:
        await read(world.journeys, make_job(), timeout_s=1.0)
    assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
    assert caught.value.retry_after_s > 0
    assert routed.sent() == []
    assert routed.counts() == {"rejected": 1}


async def test_without_a_decode_worker_an_accepted_request_fails(world: World) -> None:
    world.routed.decode.is_connected = False
    with pytest.raises(UnavailableError, match="no decode worker is ready"):
        await read(world.journeys, make_job())
    assert world.routed.counts() == {"accepted": 1, "failed": 1}


async def test_choices_share_a_turn_and_end_one_by_one(world: World) -> None:
    routed = world.routed
    task = await world.start_sent(num_choices=2)
    assert routed.sent() == [("submit", f"{FIRST}#0"), ("submit", f"{FIRST}#1")]
    assert routed.pool.sent_prompts.totals("p") == (1, 100), "the first computes it for both"
    routed.say(f"{FIRST}#1", "b", ends=True)
    await until(lambda: routed.admission.num_queued == 0)
    assert routed.pool.worker_use.num_requests("p") == 1, "choice 0 has no token yet"
    routed.say(f"{FIRST}#0", "a")
    await until(lambda: routed.pool.worker_use.num_requests("p") == 0)
    assert routed.admission.num_in_flight == 1
    routed.say(f"{FIRST}#0", "a", 1, ends=True)
    deltas = await task
    texts = {n: "".join(d.text for d in deltas if d.choice == n) for n in (0, 1)}
    assert texts == {0: "aa", 1: "b"}
    assert routed.counts() == {"accepted": 1, "completed": 1}


async def test_one_choice_s_failure_ends_the_others_at_their_worker(world: World) -> None:
    task = await world.start_sent(num_choices=3)
    world.routed.sent()
    world.routed.fail(f"{FIRST}#1", WorkFailure(Reason.INTERNAL, "broken"))
    with pytest.raises(RequestError, match="broken"):
        await task
    cancels = {("cancel", f"{FIRST}#0"), ("cancel", f"{FIRST}#2")}
    assert set(world.routed.sent()) == cancels
    assert world.routed.counts() == {"accepted": 1, "failed": 1}
