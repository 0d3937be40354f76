import math
from collections.abc import Sequence

import pytest

from common.messages import Role, SamplingParams
from common.router_config import RouterConfig
from pdserve.errors import UnavailableError
from router.admission.arrival_rate import ArrivalRate
from router.intake.job import Job
from router.journey.decisions import DecisionLog
from router.journey.placement import Placement
from router.routing.policy import CostBased, Decision
from router.routing.prediction import Ask, Candidate
from router.workers.pool import WorkerPool


class Recorded:
    """A policy that keeps what it was asked; the only worker is made up."""

    prompt_roles = (Role.DECODE,)

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def choose(
        self, ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> Decision | None:
        """Keep the ask, and choose the only worker."""
        self.asks.append(ask)
        return CostBased().choose(ask, [], [Candidate("d")])


def job(max_tokens: int) -> Job:
    return Job("r", (1, 2, 3), SamplingParams(0.0, 0, max_tokens), ())


def test_answers_are_expected_as_long_as_they_have_been_and_as_max_tokens_allow() -> None:
    policy = Recorded()
    placement = Placement(WorkerPool([], RouterConfig()), policy, DecisionLog())
    placement.choose(job(1000), 0.0)
    placement.choose(job(20), 0.0)
    for _ in range(200):
        placement.note_output_length(40)
    placement.choose(job(1000), 0.0)
    for _ in range(200):
        placement.note_output_length(0)
    placement.choose(job(1000), 0.0)
    assert [ask.num_output_tokens for ask in policy.asks] == [256, 20, 40, 1]
    assert {ask.num_prompt_tokens for ask in policy.asks} == {3}


def test_without_a_worker_there_is_no_decision_and_nothing_to_explain() -> None:
    decisions = DecisionLog()
    placement = Placement(WorkerPool([], RouterConfig()), CostBased(), decisions)
    with pytest.raises(UnavailableError):
        placement.choose(job(5), 0.0)
    assert not decisions._entries


def test_a_steady_stream_is_counted_at_its_rate_and_forgotten_in_silence() -> None:
    rate = ArrivalRate()
    assert rate.per_s(100.0) == 0
    for number in range(200):
        found = rate.per_s(100.0 + number / 2)
        rate.arrive(100.0 + number / 2)
    assert found == pytest.approx(2.0, rel=0.05)
    assert rate.per_s(199.5 + 10.0) == pytest.approx((found + 0.1) * math.exp(-1), rel=0.05)
    assert rate.per_s(1e6) < 1e-9


def test_choosing_changes_nothing_until_the_choice_is_told() -> None:
    policy, decisions = Recorded(), DecisionLog()
    placement = Placement(WorkerPool([], RouterConfig()), policy, decisions)
    for _ in range(3):
        decision = placement.choose(job(5), 1.0)
    assert not decisions._entries
    placement.note_arrival(1.0)
    placement.propose(job(5), decision, 1.0)
    assert list(decisions._entries) == [job(5).key]
    placement.choose(job(5), 1.0)
    placement.commit(job(5), decision, 1.0)
    placement.choose(job(5), 1.0)
    assert [ask.turn for ask in policy.asks] == [0, 0, 0, 0, 1]
    assert [ask.arrivals_per_s for ask in policy.asks] == [0, 0, 0, 0.1, 0.1]
