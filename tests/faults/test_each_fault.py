"""Every fault at many moments: each answer is that of an undisturbed run, and nothing is left."""

import random
from collections.abc import Mapping

import pytest

from benchmarks.chaos.asking import Choice
from benchmarks.chaos.connections import can_cut
from benchmarks.chaos.faults import FAULTS, ROUTER_KILLED, Fault, named
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.questions import Question
from tests.faults.texts import (
    QUESTIONS,
    Answers,
    ask_all,
    check_answers,
    check_nothing_is_left,
)
from tests.integration.support.processes import START_TIMEOUT_S

Expected = Mapping[Question, tuple[Choice, ...]]
KILLS = named(
    ("prefill worker killed", "decode worker killed", "all decode workers killed")
)  # 20 moments each
# a router's loss is in test_router_loss.py
OTHERS = [fault for fault in FAULTS if fault not in [*KILLS, *named([ROUTER_KILLED])]]
FAST = named(("decode worker killed", "connections of a worker cut", "requests cancelled"))
NUM_MESSAGES = 600  # of all answers together, about


def moment(number: int) -> str:
    return f"moment{number}"


async def check(fault: Fault, number: int, fleet: Fleet, expected: Expected) -> None:
    """Strike while the questions run, and look at everything afterwards."""
    if "cut" in fault.name and not can_cut():
        pytest.skip("this system does not let `ss -K` cut a connection")
    draw = random.Random(f"{fault.name} {number}")
    await fleet.until_whole({}, START_TIMEOUT_S)
    answers = Answers(fleet, QUESTIONS, f"{fault.name[:9].replace(' ', '-')}-{number}")
    await answers.until_messages(draw.randrange(NUM_MESSAGES))
    strike = await fault.strike(fleet, draw)
    check_answers(await answers.all(), expected)
    await fleet.until_whole(strike.replaced, START_TIMEOUT_S)
    await check_nothing_is_left(fleet)
    check_answers(await ask_all(fleet, QUESTIONS[:3], f"after-{number}"), expected)


@pytest.mark.parametrize("fault", FAST, ids=lambda fault: fault.name)
async def test_a_fault_changes_no_answer(fault: Fault, fleet: Fleet, expected: Expected) -> None:
    await check(fault, 0, fleet, expected)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(1, 4), ids=moment)
@pytest.mark.parametrize("fault", OTHERS, ids=lambda fault: fault.name)
async def test_a_fault_at_three_moments(
    fault: Fault, number: int, fleet: Fleet, expected: Expected
) -> None:
    await check(fault, number, fleet, expected)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(1, 21), ids=moment)
@pytest.mark.parametrize("fault", KILLS, ids=lambda fault: fault.name)
async def test_a_kill_at_twenty_moments(
    fault: Fault, number: int, fleet: Fleet, expected: Expected
) -> None:
    await check(fault, number, fleet, expected)
