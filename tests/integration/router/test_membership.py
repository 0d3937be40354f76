"""Router that follows its deployment's membership: workers that start again, leave, and hang."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from common.messages import Role
from common.profile import WorkerProfile
from common.router_config import RouterConfig
from pdserve.errors import AbortedError, Reason
from pdserve.v1 import admin_pb2
from router.scaling.watchdog import Watchdog
from router.workers.membership import Member, Membership
from tests.integration.support.router_stack import Stack, collect, serving, text_of
from tests.integration.support.scaled_stack import READY, UNREACHABLE, scaling, state_of
from tests.integration.support.scripted_fleet import ScriptedFleet
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

RESTARTING = admin_pb2.WORKER_STATE_RESTARTING
RETIRED = admin_pb2.WORKER_STATE_RETIRED


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def pair() -> tuple[ScriptedWorker, ScriptedWorker]:
    return ScriptedWorker("decode-0", script=echo), ScriptedWorker("decode-1", script=echo)


async def members(stack: Stack) -> tuple[Member, ...]:
    """Return the workers as they are."""
    workers = (await stack.client.status()).workers
    return tuple(Member(worker.name, worker.address) for worker in workers)


async def second_process(fleet: ScriptedFleet, name: str) -> tuple[str, ScriptedWorker]:
    """Return the address and the double of another process of that name."""
    [(_, address)] = (await fleet.start([Role.DECODE])).items()
    worker = fleet.started[-1]
    worker.info = replace(worker.info, name=name, incarnation=f"{name}-second")
    return address, worker


async def test_a_worker_that_starts_again_is_found_at_its_new_address(model_dir: Path) -> None:
    async with scaling(model_dir, *pair()) as (stack, fleet):
        first, other = await members(stack)
        stack.router.follow(Membership(1, (first, other)))
        await stack.lose(0)
        stack.router.follow(Membership(2, (Member("decode-0"), other)))
        await state_of(stack, "decode-0", RESTARTING)
        status = await stack.client.status()
        assert status.workers[0].load.blocks_total == 0  # what it held is gone with it
        address, again = await second_process(fleet, "decode-0")
        stack.router.follow(Membership(3, (Member("decode-0", address), other)))
        await state_of(stack, "decode-0", READY)
        status = await stack.client.status()
        told = [(worker.address, worker.incarnation) for worker in status.workers]
        assert told == [(address, "decode-0-second"), (other.address, "decode-1-first")]
        stack.router._pool.drain("decode-1")
        assert text_of(await collect(stack.client, "again")) == "again"
        assert len(again.requests) == 1
        # an older membership changes nothing
        stack.router.follow(Membership(2, (Member("decode-0"), other)))
        assert [member.address for member in await members(stack)] == [address, other.address]


async def test_a_death_that_the_membership_tells_counts_as_one(model_dir: Path) -> None:
    worker, other = ScriptedWorker("decode-0"), ScriptedWorker("decode-1", script=echo)
    config = RouterConfig(max_worker_deaths=0)
    async with serving(model_dir, worker, other, config=config) as stack:
        first, second = await members(stack)
        stack.router.follow(Membership(1, (first, second)))
        answer = asyncio.create_task(collect(stack.client, "x"))
        await asyncio.to_thread(worker.wait_for_request)
        # before the router has tried the address: its connection stands yet
        stack.router.follow(Membership(2, (Member("decode-0"), second)))
        with pytest.raises(AbortedError) as caught:
            await answer
        assert caught.value.reason is Reason.POISON


async def test_a_worker_leaves_with_the_membership_and_does_not_return_with_an_old_one(
    model_dir: Path,
) -> None:
    async with scaling(model_dir, *pair()) as (stack, fleet):
        both = await members(stack)
        stack.router.follow(Membership(1, both))
        await stack.client.drain("decode-1")
        stack.router.follow(Membership(2, both))  # made before the drain ended
        assert await members(stack) == both[:1]
        stack.router.follow(Membership(3, both[:1]))
        address, _ = await second_process(fleet, "decode-2")
        stack.router.follow(Membership(4, (both[0], Member("decode-2", address))))
        await state_of(stack, "decode-2", READY)
        stack.router.follow(Membership(5, both[:1]))
        assert await members(stack) == both[:1]


async def test_a_plan_counts_a_worker_that_starts_again_and_not_one_that_is_retired(
    model_dir: Path,
) -> None:
    async with scaling(model_dir, *pair()) as (stack, fleet):
        first, other = await members(stack)
        await stack.lose(0)
        await state_of(stack, "decode-0", UNREACHABLE)
        stack.router.follow(Membership(1, (Member("decode-0"), other)))
        assert [step async for step in stack.client.scale(None, 2)] == []
        stack.router.follow(Membership(2, (Member("decode-0", retired="no memory"), other)))
        status = await stack.client.status()
        assert (status.workers[0].state, status.workers[0].note) == (RETIRED, "no memory")
        steps = [step.worker async for step in stack.client.scale(None, 2)]
        assert steps == ["decode-0", "", "decode-2"]
        assert fleet.stopped == ["decode-0"]
        assert first.name not in [member.name for member in await members(stack)]


async def test_a_worker_that_does_not_answer_is_restarted(model_dir: Path) -> None:
    now_s = 0.0
    async with scaling(model_dir, *pair()) as (stack, fleet):
        watchdog = Watchdog(stack.router._pool, fleet, 20.0, lambda: now_s)
        await watchdog.look()
        await stack.lose(0)
        await state_of(stack, "decode-0", UNREACHABLE)
        # asked again, in case that the deployment's owner was away
        looks = ((100.0, 0), (119.9, 0), (120.0, 1), (139.9, 1), (140.0, 2))
        for now_s, num_asked in looks:  # noqa: B007
            await watchdog.look()
            assert len(fleet.restarted) == num_asked
        assert set(fleet.restarted) == {("decode-0", "does not answer for 20 s")}


async def test_the_time_until_a_worker_is_known_to_be_silent_counts(model_dir: Path) -> None:
    now_s = 0.0
    async with scaling(model_dir, *pair()) as (stack, fleet):
        watchdog = Watchdog(stack.router._pool, fleet, 20.0, lambda: now_s)
        link = stack.router._pool.link("decode-0")
        for now_s, num_asked in ((100.0, 0), (114.9, 0), (115.0, 1)):  # noqa: B007
            while not link.is_silent:
                link._silence.tick()
            await watchdog.look()
            assert len(fleet.restarted) == num_asked


async def test_a_worker_that_ends_no_step_is_restarted_unless_its_steps_are_that_long(
    model_dir: Path,
) -> None:
    stuck, slow = pair()
    # a full step of 512 rows takes 2 s alone: 20 times that is no hang
    profile = WorkerProfile(row_seconds=(0.01, 2.0), pair_s=0.0)
    slow.info = replace(slow.info, profile=profile)
    async with scaling(model_dir, stuck, slow) as (stack, fleet):
        watchdog = Watchdog(stack.router._pool, fleet, 20.0)

        async def restarted_after(age_s: float) -> list[str]:
            for worker in (stuck, slow):
                worker.reported = replace(worker.reported, progress_age_s=age_s)
                worker.publish()
                link = stack.router._pool.link(worker.info.name)
                while link.load.progress_age_s != age_s:
                    await asyncio.sleep(0.005)
            await watchdog.look()
            return [name for name, _ in fleet.restarted]

        assert await restarted_after(19.0) == []
        assert await restarted_after(39.0) == ["decode-0"]
        assert fleet.restarted == [("decode-0", "has work and ended no step for 39 s")]
        assert await restarted_after(41.0) == ["decode-0", "decode-1"]
