"""Two routers over the same workers; one of the routers drains a worker."""

import asyncio
from pathlib import Path

import pytest

from pdserve.errors import PreconditionError
from tests.integration.support.router_stack import Stack, collect, routing, text_of
from tests.integration.support.scaled_stack import DRAINING, READY, scaling, state_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def addresses(stack: Stack) -> list[str]:
    return [view.address for view in stack.router._pool.views()]


async def test_another_router_sends_nothing_more_and_its_answers_end_first(model_dir: Path) -> None:
    leaving, staying = ScriptedWorker("decode-0"), ScriptedWorker("decode-1", script=echo)
    async with (
        scaling(model_dir, leaving, staying) as (stack, fleet),
        routing(model_dir, addresses(stack)) as other,
    ):
        running = asyncio.create_task(collect(other.client, "x"))
        request = await asyncio.to_thread(leaving.wait_for_request)
        drain = asyncio.create_task(stack.client.drain("decode-0"))
        await state_of(other, "decode-0", DRAINING)
        for _ in range(2):
            assert (await collect(other.client, "y"))[-1].finished.decode_worker == "decode-1"
        assert not drain.done()
        leaving.say(request, "end", ends=True)
        await drain
        assert text_of(await running) == "end"
    assert fleet.stopped == ["decode-0"]
    assert leaving.cancelled == []


async def test_requests_of_all_routers_go_on_elsewhere_when_a_worker_leaves(
    model_dir: Path,
) -> None:
    decode, idle = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    async with (
        scaling(model_dir, decode, idle) as (stack, _),
        routing(model_dir, addresses(stack)) as other,
    ):
        running = asyncio.create_task(collect(other.client, "x"))
        request = await asyncio.to_thread(decode.wait_for_request)
        decode.say(request, "so")
        await other.until(lambda status: status.router.requests_queued == 0)
        await stack.client.drain("decode-0", timeout_s=0.2)
        await stack.lose(0)  # as its process ends
        moved = await asyncio.to_thread(idle.wait_for_request)
        assert moved.prior_token_ids == tuple(b"so")
        idle.say(moved, " on", 2, ends=True)
        assert text_of(await running) == "so on"


async def test_a_router_that_goes_away_drains_nothing_any_more(model_dir: Path) -> None:
    async with scaling(model_dir, ScriptedWorker("decode-0")) as (stack, _):
        async with routing(model_dir, addresses(stack)) as other:
            other.router._pool.drain("decode-0")
            await state_of(stack, "decode-0", DRAINING)
        await state_of(stack, "decode-0", READY)


async def test_one_that_another_router_drains_is_not_the_one_that_remains(model_dir: Path) -> None:
    workers = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    async with (
        scaling(model_dir, *workers) as (stack, fleet),
        routing(model_dir, addresses(stack)) as other,
    ):
        other.router._pool.drain("decode-0")
        await state_of(stack, "decode-0", DRAINING)
        with pytest.raises(PreconditionError, match="no decode worker would remain"):
            await stack.client.drain("decode-1")
        assert fleet.stopped == []
