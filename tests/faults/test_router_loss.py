"""Router that is killed under load: its answers go on at another router of the deployment."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.chaos.fleet import Fleet
from pdserve.client import AsyncClient
from tests.faults.deployments import FAILPOINTS, SETTINGS
from tests.faults.texts import QUESTIONS, Answers, ask_all, check_answers, check_nothing_is_left
from tests.integration.support.processes import (
    STOP_TIMEOUT_S,
    Served,
    await_ready,
    ended,
    spawn_command,
)
from tests.integration.support.ray_head import ray_head

POLICY = ("--policy", "least_loaded")


@pytest.fixture
def routers(tiny_model: Path) -> Iterator[list[Served]]:
    """Yield two that have joined one deployment: 1 prefill and 2 decode workers."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in ({**SETTINGS, "PDSERVE_FAILPOINTS": FAILPOINTS}).items():
            patch.setenv(name, value)  # Ray's workers have the environment of their Ray
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
        address = stack.enter_context(ray_head(Path(folder)))
        place = ("--ray-address", address, "--namespace", "routers", *POLICY)
        flags = ("--dtype", "float32", "--decode", "2")
        serve = spawn_command("serve", str(tiny_model), *place, *flags)
        stack.enter_context(ended(serve))
        await_ready(serve)
        joining = [spawn_command("router", *place) for _ in range(2)]
        for process in joining:
            stack.enter_context(ended(process))
        yield [await_ready(process) for process in joining]
        serve.terminate()
        assert serve.wait(STOP_TIMEOUT_S) == 0


@pytest.mark.faults
async def test_answers_of_a_killed_router_go_on_at_another(routers: list[Served]) -> None:
    one, other = routers
    async with AsyncClient(other.grpc) as calm, AsyncClient([one.grpc, other.grpc]) as client:
        fleet = Fleet(calm, other.grpc, other.process.pid)
        undisturbed = await ask_all(fleet, QUESTIONS, "undisturbed")
        expected = {asking.question: asking.answer() for asking in undisturbed}
        met = Fleet(client, one.grpc, one.process.pid)
        answers = Answers(met, QUESTIONS, "met", is_resumable=True)
        await answers.until_messages(200)
        one.process.kill()
        check_answers(await answers.all(), expected)
        totals = (await calm.status()).router.totals
        assert totals.completed > len(QUESTIONS), "some had not ended when the router was killed"
        await check_nothing_is_left(fleet)
