"""Request that kills every worker that runs it: it ends with POISON, and takes no other one along."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from benchmarks.chaos.asking import Choice
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.questions import Question
from pdserve.errors import AbortedError, Reason
from pdserve.v1 import inference_pb2
from tests.faults.deployments import FAILPOINTS, SETTINGS
from tests.faults.texts import QUESTIONS, ask_all, check_answers, check_nothing_is_left
from tests.integration.support.processes import START_TIMEOUT_S

POISON = 7  # a control character's byte, and none that an engine tries at its start
MAX_DEATHS = 1


def without_poison(question: Question) -> Question:
    """Return the question with an answer that never has the token."""
    sampling = inference_pb2.SamplingParams()
    sampling.CopyFrom(question.sampling)
    sampling.logit_bias[POISON] = -100.0
    return replace(question, sampling=sampling)


@pytest.fixture(scope="module")
def failpoints() -> str:
    return f"{FAILPOINTS},exit_on_token={POISON}"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return SETTINGS | {"PDSERVE_ROUTER__MAX_WORKER_DEATHS": str(MAX_DEATHS)}


@pytest.fixture(scope="module")
def questions() -> Sequence[Question]:
    return [without_poison(question) for question in QUESTIONS]


@pytest.mark.faults
async def test_it_ends_with_poison_and_all_others_have_their_texts(
    fleet: Fleet, expected: Mapping[Question, tuple[Choice, ...]], questions: Sequence[Question]
) -> None:
    before = {worker.name: worker.incarnation for worker in await fleet.workers()}
    beside = asyncio.create_task(ask_all(fleet, questions, "beside"))
    prompt = [65, 66, POISON, 67]
    with pytest.raises(AbortedError) as caught:
        await fleet.client.generate(prompt, timeout=START_TIMEOUT_S)
    assert caught.value.reason is Reason.POISON
    check_answers(await beside, expected)
    # prefill may run it first, or decode workers alone: that is for the router to choose
    await fleet.until_whole({}, START_TIMEOUT_S)
    replaced = [w.name for w in await fleet.workers() if w.incarnation != before[w.name]]
    assert len(replaced) > MAX_DEATHS
    check_answers(await ask_all(fleet, questions, "later"), expected)
    await check_nothing_is_left(fleet)
