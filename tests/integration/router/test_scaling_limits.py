"""Changes of the workers that take too long, or that the router's end cuts off: the caller is told."""

import asyncio
from pathlib import Path

import pytest

from common.messages import Role
from pdserve.errors import Reason, RequestTimeoutError, UnavailableError
from router.scaling.fleet import FleetLimits
from tests.integration.support.processes import run_cli
from tests.integration.support.scaled_stack import DRAINING, scaling, state_of
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def pair() -> tuple[ScriptedWorker, ScriptedWorker]:
    return ScriptedWorker("decode-0"), ScriptedWorker("prefill-0", Role.PREFILL)


async def test_a_flip_that_does_not_end_is_given_up_and_another_change_may_begin(
    model_dir: Path,
) -> None:
    async with scaling(model_dir, *pair()) as (stack, fleet):
        fleet.may_flip.clear()
        fleet.limits = FleetLimits(step_s=0.05)
        stack.router._scaler._connect_within_s = 0.05
        with pytest.raises(RequestTimeoutError, match=r"was not done in 1\.1 s"):
            async for _ in stack.client.scale(0, 2, drain_timeout_s=1.0):
                pass
        fleet.may_flip.set()
        fleet.limits = FleetLimits()
        stack.router._scaler._connect_within_s = WITHIN_S
        steps = [step async for step in stack.client.scale(0, 2)]
        assert [step.worker for step in steps] == ["prefill-0", "prefill-0"]


async def test_a_caller_s_own_deadline_ends_the_wait_and_not_the_change(model_dir: Path) -> None:
    async with scaling(model_dir, *pair()) as (stack, fleet):
        fleet.may_flip.clear()
        asked = ("--decode", "2", "--prefill", "0", "--timeout", "0.5", "--address", stack.address)
        done = await asyncio.to_thread(run_cli, "scale", *asked)
        assert done.returncode == 1
        assert "what has begun may go on" in done.stderr
        change = stack.router._scaler._task
        fleet.may_flip.set()
        if change is not None:  # else the deadline had passed before the router was reached
            await change
            assert [w.role for w in (await stack.client.status()).workers] == [2, 2]


async def test_a_router_that_stops_tells_who_waits_for_a_change(model_dir: Path) -> None:
    async with scaling(model_dir, *pair()) as (stack, fleet):
        fleet.may_flip.clear()

        async def change() -> None:
            async for _ in stack.client.scale(0, 2):
                pass

        changing = asyncio.create_task(change())
        await state_of(stack, "prefill-0", DRAINING)
        await asyncio.wait_for(stack.router.stop(0.0), WITHIN_S)
        with pytest.raises(UnavailableError, match="router shut down") as caught:
            await changing
        assert caught.value.reason is Reason.SHUTTING_DOWN
