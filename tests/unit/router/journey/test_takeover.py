"""Tests of requests that another router ran: they go on behind what their client has."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from common.messages import FinishReason, SequenceOutput, WorkFailure
from common.router_config import RouterConfig, TenantLimits
from common.timings import WorkTimings
from pdserve.errors import InvalidRequestError, OverloadedError, Reason, RequestCancelledError
from pdserve.v1 import worker_pb2
from router.access.tenant import ANONYMOUS
from router.intake.job import Job
from router.intake.received import Received
from router.journey.progress import Delta
from tests.patience import WITHIN_S
from tests.unit.router.journey.routed import (
    NUM_TOKENS,
    Routed,
    make_job,
    read,
    take_messages,
    until,
)
from tests.unit.router.journey.world import FIRST, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, RouterConfig(max_outage_s=30))
    yield made
    made.routed.check_nothing_is_held()


def taken_over(*texts: str, ended: tuple[int, ...] = (), stop: tuple[str, ...] = ()) -> Job:
    """Return a job with these outputs, one a choice."""
    received = Received(tuple(tuple(text.encode()) for text in texts), frozenset(ended))
    job = make_job(num_choices=len(texts), stop=stop)
    return replace(job, received=received)


async def start(world: World, job: Job) -> "asyncio.Task[list[Delta]]":
    """Run a job until its choices are at the worker."""
    task = asyncio.create_task(read(world.journeys, job))
    num_choices = job.num_choices - len(job.received.ended)
    await until(lambda: world.routed.decode.num_live == num_choices)
    return task


def submits(world: World) -> dict[str, worker_pb2.SubmitRequest]:
    found = [m.submit for m in take_messages(world.routed.decode) if m.HasField("submit")]
    return {work.request_id: work for work in found}


async def test_it_goes_on_at_the_next_token(world: World) -> None:
    task = await start(world, taken_over("one"))
    (work,) = submits(world).values()
    assert (bytes(work.prior_token_ids), work.attempt) == (b"one", 1)
    assert list(work.prompt_token_ids) == [7] * NUM_TOKENS
    assert world.routed.pool.sent_prompts.totals("p") == (1, NUM_TOKENS + 3)
    world.routed.say(FIRST, " two", 3, ends=True)
    deltas = await task
    assert [(delta.index, delta.text) for delta in deltas] == [(3, " two")]
    summary = deltas[-1].summary
    assert summary is not None
    assert summary.num_output_tokens == 7
    assert 0 <= summary.first_token_s <= summary.total_s
    metrics = world.routed.metrics
    assert metrics.migrations.labels("router")._value.get() == 1
    assert metrics.output_tokens._value.get() == 4, "those that were generated for this router"
    assert world.routed.counts() == {"accepted": 1, "completed": 1}


async def test_times_count_from_the_first_token_here(world: World) -> None:
    task = await start(world, taken_over("one"))
    for place, letter in enumerate("abc"):
        world.routed.say(FIRST, letter, 3 + place, ends=letter == "c")
        await asyncio.sleep(0)
    await task
    registry = world.routed.metrics.registry
    for name, number in (
        ("time_to_first_token", 1),
        ("inter_token_latency", 2),
        ("request_time_per_output_token", 1),
    ):
        assert registry.get_sample_value(f"pdserve_{name}_seconds_count") == number
        sum_s = registry.get_sample_value(f"pdserve_{name}_seconds_sum")
        assert sum_s is not None
        assert 0 <= sum_s < WITHIN_S


async def test_one_token_here_has_no_gap_and_no_more_than_the_prompt_was_cached(
    world: World,
) -> None:
    task = await start(world, taken_over("one"))
    timings = WorkTimings(num_cached_tokens=NUM_TOKENS + 3)  # the worker counts the output too
    end = SequenceOutput(FIRST, 3, (7,), FinishReason.LENGTH, timings=timings)
    world.routed.decode._hand_out(end)
    summary = (await task)[-1].summary
    assert summary is not None
    assert summary.timings.num_cached_tokens == NUM_TOKENS
    name = "pdserve_request_time_per_output_token_seconds_count"
    assert world.routed.metrics.registry.get_sample_value(name) == 0


async def test_text_goes_on_inside_a_character_and_a_stop_text(world: World) -> None:
    job = replace(taken_over("x"), stop=("END",))
    tokens = tuple("日EN".encode())
    halves = replace(job, received=Received((tokens[:2],)))
    task = await start(world, halves)
    world.routed.decode._hand_out(SequenceOutput(FIRST, 2, tokens[2:]))
    world.routed.say(FIRST, "!", 5, ends=True)
    assert "".join(delta.text for delta in await task) == "日EN!"
    task = asyncio.create_task(read(world.journeys, replace(job, received=Received((tokens,)))))
    await until(lambda: world.routed.decode.num_live == 1)
    world.routed.say("me/1/r", "D!", 5)
    (delta,) = await task
    assert (delta.text, delta.summary and delta.summary.stop_text) == ("", "END")


async def test_a_choice_that_has_ended_is_not_run_again(world: World) -> None:
    task = await start(world, taken_over("", "ab", "c", ended=(0,)))
    sent = submits(world)
    assert {name: bytes(work.prior_token_ids) for name, work in sent.items()} == {
        f"{FIRST}#1": b"ab",
        f"{FIRST}#2": b"c",
    }
    assert [work.sampling.seed for work in sent.values()] == [1, 2]
    use = world.routed.pool.worker_use
    assert (use.num_requests("p"), use.num_requests("d")) == (1, 1)
    assert world.routed.pool.sent_prompts.totals("p") == (2, NUM_TOKENS + 2 + 1)
    world.routed.say(f"{FIRST}#2", "d", 1, ends=True)
    world.routed.say(f"{FIRST}#1", "c", 2, ends=True)
    texts = {delta.choice: delta.text for delta in await task}
    assert texts == {1: "c", 2: "d"}


async def test_a_lost_prefill_worker_moves_the_choices_that_are_left(world: World) -> None:
    task = await start(world, taken_over("", "ab", ended=(0,)))
    use = world.routed.pool.worker_use
    use.lose_prefill("p", WorkFailure(Reason.WORKER_LOST, "gone"))
    world.routed.prefill.is_connected = False
    await until(lambda: f"{FIRST}#1~2" in submits(world))
    world.routed.say(f"{FIRST}#1~2", "c", 2, ends=True)
    assert [(delta.choice, delta.text) for delta in await task] == [(1, "c")]


async def test_the_prompt_s_log_probabilities_come_once(world: World) -> None:
    job = taken_over("a", "")
    job = replace(job, sampling=replace(job.sampling, prompt_logprobs=1))
    task = await start(world, job)
    assert not any(work.sampling.HasField("prompt_logprobs") for work in submits(world).values())
    for number, text in ((0, "b"), (1, "ab")):
        world.routed.say(f"{FIRST}#{number}", text, 1 - number, ends=True)
    await task


async def test_a_stop_text_in_it_is_refused_before_a_worker_has_it(world: World) -> None:
    with pytest.raises(InvalidRequestError, match="has ended this output") as caught:
        await read(world.journeys, taken_over("one two", stop=("wo",)))
    assert caught.value.field == "received.token_ids"
    assert world.routed.sent() == []
    assert world.routed.counts() == {"accepted": 1, "failed": 1}


async def test_a_cancel_while_its_text_is_rebuilt_is_not_lost(world: World) -> None:
    cancelled = Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(cancelled.wait, WITHIN_S)  # until then its text waits for the thread
        task = asyncio.create_task(read(world.journeys, taken_over("one")))
        await until(lambda: world.routed.admission.num_in_flight == 1)
        world.journeys.cancel(ANONYMOUS, "r")
        cancelled.set()
        with pytest.raises(RequestCancelledError):
            await task
    assert world.routed.sent() == []


def test_its_tokens_count_for_the_limits_like_those_of_a_prompt() -> None:
    routed = Routed(RouterConfig(tenant=TenantLimits(tokens_per_minute=10**6)))
    job = taken_over("one", "", "ab")
    request = routed.dispatcher.admit(job, None)
    assert request.ticket.num_prompt_tokens == NUM_TOKENS + 5
    request.close()
    late = replace(job, received=Received((tuple(b"one") * 10**6, (), ())))
    routed.dispatcher.admit(late, None).close()  # overdraws
    with pytest.raises(OverloadedError) as caught:
        routed.dispatcher.admit(job, None)
    assert caught.value.reason is Reason.TENANT_LIMIT
    routed.check_nothing_is_held()


async def test_tokens_that_the_worker_repeats_are_dropped_and_a_gap_is_found(world: World) -> None:
    task = await start(world, taken_over("one"))
    end = SequenceOutput(FIRST, 1, tuple(b"ne!"), FinishReason.STOP, timings=WorkTimings())
    world.routed.decode._hand_out(end)
    assert [delta.text for delta in await task] == ["!"]
