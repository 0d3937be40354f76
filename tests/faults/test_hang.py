"""Decode worker whose engine hangs: the watchdog kills it, and its requests go on elsewhere."""

from collections.abc import Mapping

import pytest

from benchmarks.chaos.asking import Choice
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.questions import Question
from tests.faults.deployments import FAILPOINTS, SETTINGS
from tests.faults.texts import QUESTIONS, ask_all, check_answers, check_nothing_is_left
from tests.integration.support.processes import START_TIMEOUT_S, Served

NUM_STEPS = 150  # of each process; the undisturbed answers take fewer


@pytest.fixture(scope="module")
def failpoints() -> str:
    return f"{FAILPOINTS},hang_at_step=decode-0:{NUM_STEPS}"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return SETTINGS | {"PDSERVE_ROUTER__WATCHDOG_S": "5"}


@pytest.mark.faults
async def test_a_hanging_engine_is_killed_and_its_requests_go_on(
    fleet: Fleet,
    expected: Mapping[Question, tuple[Choice, ...]],
    deployment: tuple[Served, list[str]],
) -> None:
    _, log = deployment
    before = {worker.name: worker for worker in await fleet.workers()}
    assert before["decode-0"].load.steps < NUM_STEPS
    hanging = {"decode-0": before["decode-0"].incarnation}
    for number in range(4):
        check_answers(await ask_all(fleet, QUESTIONS, f"hang-{number}"), expected)
    await fleet.until_whole(hanging, START_TIMEOUT_S)
    await check_nothing_is_left(fleet)
    [died, *_] = [line for line in log if '"worker_died"' in line]
    assert "worker decode-0 was killed: it " in died
    others = [worker for worker in await fleet.workers() if worker.name != "decode-0"]
    assert [w.incarnation for w in others] == [before[w.name].incarnation for w in others]
