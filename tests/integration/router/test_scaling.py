"""Workers added, removed and flipped under a real router; each ends its work first."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from common.messages import Role
from pdserve.client import AsyncClient
from pdserve.errors import (
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    Reason,
    RequestError,
    RequestTimeoutError,
    UnavailableError,
)
from pdserve.v1 import admin_pb2
from router.scaling.plan import ScalePlan
from router.scaling.scaler import ScaleAction, ScaleStep
from tests.integration.support.router_stack import NO_WAIT, Stack, collect, serving, text_of
from tests.integration.support.scaled_stack import DRAINING, READY, UNREACHABLE, scaling, state_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

P, D = admin_pb2.WORKER_ROLE_PREFILL, admin_pb2.WORKER_ROLE_DECODE


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def pair() -> tuple[ScriptedWorker, ScriptedWorker]:
    return ScriptedWorker("decode-0"), ScriptedWorker("prefill-0", Role.PREFILL)


async def scaled(
    client: AsyncClient, prefill: int | None, decode: int | None, timeout_s: float = 30.0
) -> list[str]:
    """Return the steps of a change as texts."""
    steps = client.scale(prefill, decode, drain_timeout_s=timeout_s)
    names = admin_pb2.ScaleAction.Name
    return [f"{names(s.action).removeprefix('SCALE_ACTION_')} {s.worker}" async for s in steps]


async def roles(stack: Stack) -> dict[str, int]:
    return {worker.name: worker.role for worker in (await stack.client.status()).workers}


async def test_a_prefill_worker_flips_when_every_prompt_sent_to_it_has_its_first_token(
    model_dir: Path,
) -> None:
    decode, source = pair()
    async with scaling(model_dir, decode, source) as (stack, fleet):
        running = asyncio.create_task(collect(stack.client, "one"))
        request = await asyncio.to_thread(decode.wait_for_request)
        assert request.prefill_worker == "prefill-0"
        change = asyncio.create_task(scaled(stack.client, 0, 2))
        await state_of(stack, "prefill-0", DRAINING)
        later = asyncio.create_task(collect(stack.client, "two"))
        # the router sends no new prompts there, and waits for the one under way
        assert (await asyncio.to_thread(decode.wait_for_request, 2)).prefill_worker is None
        assert await roles(stack) == {"prefill-0": P, "decode-0": D}
        decode.say(request, "o")
        # the answer itself goes on elsewhere
        assert await change == ["DRAINING prefill-0", "FLIPPED prefill-0"]
        assert await roles(stack) == {"prefill-0": D, "decode-0": D}
        third = asyncio.create_task(collect(stack.client, "three"))
        new = await asyncio.to_thread(source.wait_for_request)
        source.say(new, "3", ends=True)
        decode.say(request, "k", 1, ends=True)
        decode.say(decode.requests[1], "yes", ends=True)
        assert [text_of(await task) for task in (running, later, third)] == ["ok", "yes", "3"]
    assert fleet.stopped == []


async def test_a_decode_worker_leaves_when_its_last_answer_has_ended(model_dir: Path) -> None:
    leaving, staying = ScriptedWorker("decode-0"), ScriptedWorker("decode-1", script=echo)
    async with scaling(model_dir, leaving, staying) as (stack, fleet):
        running = asyncio.create_task(collect(stack.client, "x"))
        request = await asyncio.to_thread(leaving.wait_for_request)
        drain = asyncio.create_task(stack.client.drain("decode-0"))
        await state_of(stack, "decode-0", DRAINING)
        for _ in range(2):
            assert (await collect(stack.client, "y"))[-1].finished.decode_worker == "decode-1"
        assert not drain.done()
        leaving.say(request, "end", ends=True)
        await drain
        assert text_of(await running) == "end"
        assert await roles(stack) == {"decode-1": D}
    assert fleet.stopped == ["decode-0"]
    assert leaving.cancelled == []


async def test_new_workers_get_work_and_dead_ones_are_replaced(model_dir: Path) -> None:
    decode, source = pair()
    async with scaling(model_dir, decode, source) as (stack, fleet):
        await stack.lose(0)
        await state_of(stack, "decode-0", UNREACHABLE)
        assert await scaled(stack.client, 1, 1) == [
            "STOPPED decode-0",
            "STARTING ",
            "STARTED decode-2",
        ]
        assert await roles(stack) == {"prefill-0": P, "decode-2": D}
        parts = await collect(stack.client, "new")
        assert (text_of(parts), parts[-1].finished.decode_worker) == ("new", "decode-2")
        assert await scaled(stack.client, None, 1) == []
    assert fleet.stopped == ["decode-0"]


async def test_what_cannot_be_is_refused_and_nothing_changes(model_dir: Path) -> None:
    decode, source = pair()
    async with scaling(model_dir, decode, source) as (stack, fleet):
        before = await roles(stack)

        async def refused(change: Awaitable[object], kind: type[RequestError]) -> Reason:
            with pytest.raises(kind) as caught:
                await change
            assert await roles(stack) == before
            await state_of(stack, "decode-0", READY)
            return caught.value.reason

        async def scale(prefill: int, decode: int) -> Reason:
            kind = PreconditionError if decode else InvalidRequestError
            return await refused(scaled(stack.client, prefill, decode), kind)

        async def drain(name: str, kind: type[RequestError]) -> Reason:
            return await refused(stack.client.drain(name), kind)

        assert await scale(1, 0) is Reason.INVALID_FIELD
        assert await scale(1, 7) is Reason.SCALE_REFUSED  # no room
        assert await drain("decode-9", NotFoundError) is Reason.WORKER_NOT_FOUND
        assert await drain("decode-0", PreconditionError) is Reason.SCALE_REFUSED  # the last one
        fleet.fingerprint = "other"
        assert await scale(1, 2) is Reason.SCALE_REFUSED
        assert fleet.stopped == [fleet.started[0].info.name]


async def test_work_that_does_not_end_in_time_keeps_its_worker(model_dir: Path) -> None:
    workers = [ScriptedWorker(f"decode-{number}") for number in range(2)]
    async with scaling(model_dir, *workers) as (stack, fleet):
        running = [asyncio.create_task(collect(stack.client, "x")) for _ in range(2)]
        requests = [await asyncio.to_thread(worker.wait_for_request) for worker in workers]
        with pytest.raises(RequestTimeoutError, match="decode-0 still had 1 requests"):
            await scaled(stack.client, 0, 1, timeout_s=0.1)
        await stack.until(lambda status: all(w.state == READY for w in status.workers))
        for worker, request in zip(workers, requests, strict=True):
            worker.say(request, "end", ends=True)
        assert [text_of(await task) for task in running] == ["end", "end"]
    assert fleet.stopped == []


async def test_one_change_at_a_time_and_it_goes_on_when_its_caller_leaves(model_dir: Path) -> None:
    decode, source = pair()
    async with scaling(model_dir, decode, source) as (stack, fleet):
        fleet.may_flip.clear()
        steps = stack.client.scale(0, 2)
        assert (await anext(steps)).worker == "prefill-0"
        await steps.aclose()
        for second in (scaled(stack.client, 1, 1), stack.client.drain("prefill-0")):
            with pytest.raises(PreconditionError) as caught:
                await second
            assert caught.value.reason is Reason.SCALE_IN_PROGRESS
        fleet.may_flip.set()
        await stack.until(lambda status: all(w.role == D for w in status.workers))
        await state_of(stack, "prefill-0", READY)


async def test_a_router_that_did_not_start_its_workers_can_only_let_them_go(
    model_dir: Path,
) -> None:
    workers = (*pair(), ScriptedWorker("decode-1"))
    async with serving(model_dir, *workers) as stack:
        for prefill, decode in ((1, 3), (0, 3)):
            with pytest.raises(PreconditionError, match="did not start"):
                await scaled(stack.client, prefill, decode)
        await stack.until(lambda status: all(w.state == READY for w in status.workers))
        await stack.client.drain("decode-1")
        assert await roles(stack) == {"prefill-0": P, "decode-0": D}


async def test_a_worker_taken_for_gone_that_came_back_ends_its_work_first(model_dir: Path) -> None:
    decode, back = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    async with scaling(model_dir, decode, back) as (stack, fleet):
        pool, steps = stack.router._pool, list[ScaleStep]()
        pool.drain("decode-0")
        running = asyncio.create_task(collect(stack.client, "one"))
        request = await asyncio.to_thread(back.wait_for_request)
        change = asyncio.create_task(
            stack.router._scaler._carry_out(ScalePlan(gone=("decode-1",)), 30.0, steps.append)
        )
        await state_of(stack, "decode-1", DRAINING)
        assert fleet.stopped == []
        back.say(request, "done", ends=True)
        assert text_of(await running) == "done"
        await change
        assert [step.action for step in steps] == [ScaleAction.DRAINING, ScaleAction.STOPPED]


async def test_requests_of_a_worker_that_is_removed_end_at_once(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker, config=NO_WAIT) as stack:
        running = asyncio.create_task(collect(stack.client, "one"))
        await asyncio.to_thread(worker.wait_for_request)
        await stack.router._pool.remove("decode-0")
        with pytest.raises(UnavailableError) as caught:
            async with asyncio.timeout(WITHIN_S):
                await running
        assert caught.value.reason is Reason.WORKER_LOST
