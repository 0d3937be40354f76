"""Tests of requests whose worker is lost: they go on elsewhere, behind what they have."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.messages import FinishReason, SequenceOutput, WorkFailure, WorkRequest
from common.router_config import RouterConfig
from pdserve.errors import (
    AbortedError,
    Reason,
    RequestCancelledError,
    RequestTimeoutError,
    UnavailableError,
)
from pdserve.v1 import worker_pb2
from router.access.tenant import ANONYMOUS
from router.journey.progress import Delta
from router.workers.link import WorkerLink
from router.workers.work_stream import WorkStream
from tests.unit.router.journey.routed import make_job, read, take_messages, until
from tests.unit.router.journey.world import FIRST, World

DIED = WorkFailure(Reason.WORKER_LOST, "the decode worker is gone", is_death=True)
CUT = replace(DIED, is_death=False)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, RouterConfig(max_outage_s=30))
    yield made
    made.routed.check_nothing_is_held()


def submits(link: WorkerLink) -> list[worker_pb2.SubmitRequest]:
    return [m.submit for m in take_messages(link) if m.HasField("submit")]


def say(link: WorkerLink, work_id: str, text: str, index: int, *, ends: bool = False) -> None:
    reason = FinishReason.LENGTH if ends else None
    link._hand_out(SequenceOutput(work_id, index, tuple(text.encode()), reason))


def lose(world: World, link: WorkerLink, failure: WorkFailure = DIED) -> None:
    """Let a worker die, as its link would tell."""
    link.is_connected = False
    world.routed.outage.look()
    link._work.fail(failure)


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_a_choice_goes_on_at_the_next_token_and_old_outputs_cannot_reach_it(
    world: World,
) -> None:
    spare, task = world.routed.add_decode("e"), await world.start_sent()
    say(world.routed.decode, FIRST, "one", 0)
    await until(lambda: world.routed.admission.num_queued == 0)
    lose(world, world.routed.decode)
    await until(lambda: spare.num_live == 1)
    (work,) = submits(spare)
    assert (work.request_id, work.attempt, work.group) == (f"{FIRST}~2", 2, FIRST)
    assert list(work.prior_token_ids) == list(b"one")
    assert list(work.prompt_token_ids) == [7] * 100
    use = world.routed.pool.worker_use
    assert (use.num_requests("d"), use.num_requests("e")) == (0, 1)
    say(spare, FIRST, "never", 3)
    say(spare, f"{FIRST}~2", "ne two", 1, ends=True)  # a part of it again, and the rest
    deltas = await task
    assert text_of(deltas) == "one two"
    assert deltas[-1].summary is not None
    assert deltas[-1].summary.route.decode == "e"
    assert world.routed.counts() == {"accepted": 1, "completed": 1}
    assert world.routed.metrics.migrations.labels("death")._value.get() == 1


async def test_before_token_0_the_prompt_runs_elsewhere_and_keeps_its_turn(world: World) -> None:
    spare, (task, second) = world.routed.add_decode("e"), await world.start_queued()
    lose(world, world.routed.decode, CUT)
    await until(lambda: spare.num_live == 1)
    assert world.routed.pool.sent_prompts.totals("p") == (1, 100)
    say(spare, f"{FIRST}~2", "one", 0, ends=True)
    assert text_of(await task) == "one"
    await until(lambda: spare.num_live == 1)
    say(spare, "me/1/waits", "two", 0, ends=True)
    assert text_of(await second) == "two"


async def test_a_worker_that_is_lost_just_as_it_is_sent_to_is_not_the_last_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spares, task = [world.routed.add_decode(name) for name in "ef"], await world.start_sent()
    lost: list[WorkerLink] = []
    for link in spares:

        def submit(request: WorkRequest, stream: WorkStream, link: WorkerLink = link) -> None:
            if not lost:
                lost.append(link)
                link.is_connected = False
            WorkerLink.submit(link, request, stream)

        monkeypatch.setattr(link, "submit", submit)
    lose(world, world.routed.decode)
    await until(lambda: any(link.num_live for link in spares))
    (taker,) = (link for link in spares if link not in lost)
    say(taker, f"{FIRST}~2", "one", 0, ends=True)
    assert text_of(await task) == "one"


async def test_each_choice_moves_with_its_own_output(world: World) -> None:
    spare, task = world.routed.add_decode("e"), await world.start_sent(num_choices=3)
    decode = world.routed.decode
    say(decode, f"{FIRST}#0", "done", 0, ends=True)
    say(decode, f"{FIRST}#2", "ab", 0)
    await until(lambda: world.routed.admission.num_queued == 0)
    lose(world, decode)
    await until(lambda: spare.num_live == 2)
    sent = {work.request_id: work for work in submits(spare)}
    assert {work.group for work in sent.values()} == {FIRST}
    assert list(sent[f"{FIRST}#1~2"].prior_token_ids) == []
    assert list(sent[f"{FIRST}#2~2"].prior_token_ids) == list(b"ab")
    say(spare, f"{FIRST}#2~2", "c", 2, ends=True)
    say(spare, f"{FIRST}#1~2", "xy", 0, ends=True)
    deltas = await task
    texts = [text_of([d for d in deltas if d.choice == number]) for number in range(3)]
    assert texts == ["done", "xy", "abc"]


async def test_log_probabilities_of_the_prompt_are_asked_for_until_they_came(world: World) -> None:
    spare = world.routed.add_decode("e")
    job = make_job()
    job = replace(job, sampling=replace(job.sampling, prompt_logprobs=2))
    task = asyncio.create_task(read(world.journeys, job))
    await until(lambda: world.routed.decode.num_live == 1)
    lose(world, world.routed.decode, CUT)
    await until(lambda: spare.num_live == 1)
    assert submits(spare)[0].sampling.prompt_logprobs == 2
    say(spare, f"{FIRST}~2", "a", 0)
    await until(lambda: world.routed.admission.num_queued == 0)
    world.routed.introduce(world.routed.decode, role=world.routed.decode.info.role)  # type: ignore[union-attr]
    take_messages(world.routed.decode)
    lose(world, spare, CUT)
    await until(lambda: world.routed.decode.num_live == 1)
    (work,) = submits(world.routed.decode)
    assert not work.sampling.HasField("prompt_logprobs")
    say(world.routed.decode, f"{FIRST}~3", "b", 1, ends=True)
    assert text_of(await task) == "ab"


async def test_with_nobody_left_it_waits_for_a_worker(world: World) -> None:
    task = await world.start_sent()
    say(world.routed.decode, FIRST, "one", 0)
    await until(lambda: world.routed.admission.num_queued == 0)
    lose(world, world.routed.decode)
    await until(lambda: bool(world.routed.outage._waiting))
    back = world.routed.add_decode("back")
    world.routed.outage.look()
    await until(lambda: back.num_live == 1)
    say(back, f"{FIRST}~2", "!", 3, ends=True)
    assert text_of(await task) == "one!"


async def test_a_new_request_waits_for_a_worker_too(world: World) -> None:
    lose(world, world.routed.decode)
    task = world.start()
    await until(lambda: bool(world.routed.outage._waiting))
    back = world.routed.add_decode("back")
    world.routed.outage.look()
    await until(lambda: back.num_live == 1)
    say(back, FIRST, "ok", 0, ends=True)
    assert text_of(await task) == "ok"


async def test_a_cancel_ends_the_wait_for_a_worker(world: World) -> None:
    task = await world.start_sent()
    lose(world, world.routed.decode)
    await until(lambda: bool(world.routed.outage._waiting))
    world.journeys.cancel(ANONYMOUS, "r")
    with pytest.raises(RequestCancelledError):
        await task
    assert world.routed.counts() == {"accepted": 1, "cancelled": 1}


async def test_a_cancel_in_the_moment_of_the_loss_is_not_lost(world: World) -> None:
    spare, task = world.routed.add_decode("e"), await world.start_sent()
    lose(world, world.routed.decode)
    world.journeys.cancel(ANONYMOUS, "r")
    with pytest.raises(RequestCancelledError):
        await task
    assert spare.num_live == 0


async def test_a_cancel_in_the_moment_of_the_last_worker_s_loss_waits_for_no_other(
    world: World,
) -> None:
    task = await world.start_sent()
    lose(world, world.routed.decode)
    world.journeys.cancel(ANONYMOUS, "r")
    with pytest.raises(RequestCancelledError):
        await task
    assert world.routed.counts() == {"accepted": 1, "cancelled": 1}


async def test_the_deadline_ends_the_wait_for_a_worker(world: World) -> None:
    task = world.start(timeout_s=0.2)
    await until(lambda: world.routed.decode.num_live == 1)
    lose(world, world.routed.decode)
    with pytest.raises(RequestTimeoutError, match="no worker was ready"):
        await task


async def test_after_an_outage_of_the_longest_kind_the_request_ends(tmp_path: Path) -> None:
    world = World(tmp_path, RouterConfig(max_outage_s=0.05))
    task = await world.start_sent()
    lose(world, world.routed.decode)
    with pytest.raises(UnavailableError, match=r"is gone, and no decode worker is ready") as caught:
        await task
    assert caught.value.reason is Reason.WORKER_LOST
    with pytest.raises(UnavailableError) as caught:
        await world.start("late")
    assert caught.value.reason is Reason.NO_WORKER
    world.routed.check_nothing_is_held()


async def test_a_request_that_outlived_two_workers_does_not_get_a_fourth(world: World) -> None:
    links = [world.routed.decode, *(world.routed.add_decode(name) for name in "efg")]
    task = await world.start_sent()
    for number, link in enumerate(links[:3]):
        await until(lambda link=link: link.num_live == 1)  # type: ignore[misc]
        assert submits(link)[-1].attempt == number + 1
        lose(world, link)
    with pytest.raises(AbortedError) as caught:
        await task
    assert caught.value.reason is Reason.POISON
    assert (links[3].num_live, submits(links[3])) == (0, [])


async def test_cut_connections_are_no_deaths(world: World) -> None:
    links = [world.routed.decode, *(world.routed.add_decode(name) for name in "efgh")]
    task = await world.start_sent()
    for link in links[:4]:
        await until(lambda link=link: link.num_live == 1)  # type: ignore[misc]
        lose(world, link, CUT)
    await until(lambda: links[4].num_live == 1)
    say(links[4], f"{FIRST}~5", "ok", 0, ends=True)
    assert text_of(await task) == "ok"
