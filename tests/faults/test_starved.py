"""Gentle starts that others leave no core: each is given up, and goes on at the usual priority."""

import asyncio
import json
import os
import signal
from collections.abc import Mapping

import pytest

from benchmarks.chaos.asking import Choice
from benchmarks.chaos.fleet import DECODE, Fleet
from benchmarks.chaos.questions import Question
from tests.faults.deployments import FAILPOINTS, SETTINGS
from tests.faults.texts import QUESTIONS, ask_all, check_answers, check_nothing_is_left
from tests.integration.support.processes import START_TIMEOUT_S, Served


@pytest.fixture(scope="module")
def failpoints() -> str:
    """Starve every gentle start of a decode worker: what serves behind it did not start gently."""
    return f"{FAILPOINTS},starve_at_start=decode"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """Share all cores: a worker with cores of its own need not start gently."""
    return SETTINGS | {"PDSERVE_PIN": "off"}


@pytest.mark.faults
async def test_a_worker_that_is_added_serves_all_the_same(
    fleet: Fleet, expected: Mapping[Question, tuple[Choice, ...]]
) -> None:
    before = {worker.name: worker.incarnation for worker in await fleet.workers()}
    _ = [step async for step in fleet.client.scale(decode=3, timeout=START_TIMEOUT_S)]
    await fleet.until_whole({}, START_TIMEOUT_S)
    after = {worker.name: worker.incarnation for worker in await fleet.workers()}
    # no two workers get the same name, and decode-2 was given up
    assert after.keys() - before.keys() == {"decode-3"}
    assert {name: after[name] for name in before} == before
    check_answers(await ask_all(fleet, QUESTIONS, "added"), expected)
    await check_nothing_is_left(fleet)


@pytest.mark.faults
async def test_a_worker_that_died_comes_back_all_the_same(
    fleet: Fleet,
    expected: Mapping[Question, tuple[Choice, ...]],
    deployment: tuple[Served, list[str]],
) -> None:
    _, log = deployment
    worker, *_ = await fleet.workers(DECODE)
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(START_TIMEOUT_S):
        while not any('"worker_back"' in line for line in log):
            await asyncio.sleep(0.05)
    await fleet.until_whole({worker.name: worker.incarnation}, START_TIMEOUT_S)
    check_answers(await ask_all(fleet, QUESTIONS, "back"), expected)
    await check_nothing_is_left(fleet)
    failed = [json.loads(line) for line in log if '"restart_failed"' in line]
    assert [(one["worker"], one["error"]) for one in failed] == [
        (worker.name, "others left a gentle start no core. try again when they do less")
    ]
