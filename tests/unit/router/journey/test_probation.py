"""Tests of requests that met deaths of their workers: none of them is taken along by another one."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from common.messages import FinishReason, SequenceOutput, WorkFailure
from common.router_config import RouterConfig
from pdserve.errors import AbortedError, Reason, RequestCancelledError
from router.access.tenant import ANONYMOUS
from router.journey.probation import PROVEN_TOKENS, Allows, Probation, anywhere
from router.journey.progress import Delta
from router.routing.prediction import Route
from router.workers.link import WorkerLink
from tests.unit.router.journey.routed import until
from tests.unit.router.journey.world import World

DIED = WorkFailure(Reason.WORKER_LOST, "the decode worker is gone", is_death=True)
Deltas = asyncio.Task[list[Delta]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, RouterConfig(max_outage_s=0))
    yield made
    made.routed.check_nothing_is_held()


def say(link: WorkerLink, work_id: str, text: str, index: int = 0, *, ends: bool = False) -> None:
    reason = FinishReason.LENGTH if ends else None
    link._hand_out(SequenceOutput(work_id, index, tuple(text.encode()), reason))


def lose(link: WorkerLink) -> None:
    link.is_connected = False
    link._work.fail(DIED)


def ids(link: WorkerLink) -> list[str]:
    return sorted(work.stream.request_id for work in link._work.present())


async def two_that_met_two_deaths(world: World) -> tuple[Deltas, Deltas, WorkerLink]:
    """Return two requests that were at both dead workers, and a third worker, which is there."""
    links = [world.routed.decode, world.routed.add_decode("e"), world.routed.add_decode("f")]
    for link in links[1:]:
        link.is_connected = False
    first = world.start("a")
    await until(lambda: links[0].num_live == 1)
    say(links[0], "me/0/a", ">")  # only then the worker wants another prompt
    second = world.start("b")
    await until(lambda: links[0].num_live == 2)
    say(links[0], "me/1/b", ">")
    await until(lambda: not world.routed.admission.num_queued)
    for link, following in pairwise(links):
        await until(lambda link=link: link.num_live == 2)  # type: ignore[misc]
        following.is_connected = True
        lose(link)
    await until(lambda: links[2].num_live == 1)
    return first, second, links[2]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def until_again(world: World, link: WorkerLink, request_id: str) -> None:
    """Wait until the worker has this request."""

    def has_it() -> bool:
        world.routed.outage.look()
        return request_id in ids(link)

    await until(has_it)


async def test_at_a_third_worker_they_are_one_after_the_other(world: World) -> None:
    first, second, link = await two_that_met_two_deaths(world)
    assert ids(link) == ["me/0/a~3"]
    say(link, "me/0/a~3", "-" * (PROVEN_TOKENS - 1), 1)
    for _ in range(3):
        world.routed.outage.look()
        await asyncio.sleep(0)
    assert ids(link) == ["me/0/a~3"]
    say(link, "me/0/a~3", "-", PROVEN_TOKENS)
    await until_again(world, link, "me/1/b~3")
    say(link, "me/0/a~3", "!", PROVEN_TOKENS + 1, ends=True)
    say(link, "me/1/b~3", "!", 1, ends=True)
    assert [text_of(await first), text_of(await second)] == [f">{'-' * PROVEN_TOKENS}!", ">!"]


async def test_the_cause_of_deaths_ends_alone(world: World) -> None:
    first, second, link = await two_that_met_two_deaths(world)
    say(link, "me/0/a~3", "-" * PROVEN_TOKENS, 1)
    await until_again(world, link, "me/1/b~3")
    last = world.routed.add_decode("g")
    lose(link)
    with pytest.raises(AbortedError) as caught:
        await second
    assert caught.value.reason is Reason.POISON
    await until_again(world, last, "me/0/a~4")  # it had one death back
    say(last, "me/0/a~4", "!", PROVEN_TOKENS + 1, ends=True)
    assert text_of(await first) == f">{'-' * PROVEN_TOKENS}!"


async def test_one_that_waits_for_a_worker_of_its_own_can_be_cancelled(world: World) -> None:
    first, second, link = await two_that_met_two_deaths(world)
    world.journeys.cancel(ANONYMOUS, "b")
    with pytest.raises(RequestCancelledError):
        await second
    say(link, "me/0/a~3", "!", 1, ends=True)
    assert text_of(await first) == ">!"


def test_workers_are_free_when_all_that_were_there_have_left() -> None:
    probation = Probation(2)
    assert probation.allows(0) is anywhere
    alone, met_one = (probation.allows(deaths) for deaths in (2, 1))

    def refused(allows: Allows) -> set[str]:
        return {name for name in "dep" if not allows(name)}

    assert probation.begin(0, Route("d")) is None
    places = [probation.begin(1, Route("d", "p")), probation.begin(1, Route("d"))]
    assert (refused(alone), refused(met_one)) == ({"d", "p"}, set())
    for place, left in zip(places, ({"d"}, set[str]()), strict=True):
        assert place is not None
        place.release()
        place.release()
        assert refused(alone) == left
    last = probation.begin(2, Route("e"))
    assert (refused(alone), refused(met_one)) == ({"e"}, {"e"})
    assert last is not None
    last.release()
    assert (refused(alone), refused(met_one)) == (set(), set())
