import os

import pytest

from benchmarks.load_generator import Record
from benchmarks.overload.client import Answer
from benchmarks.overload.figures import (
    arrived_after,
    attained,
    fairness,
    jain,
    max_min,
    median,
    recovery_s,
    summarise,
)
from benchmarks.process_memory import watch
from benchmarks.slo_attainment import Attainment, Slo
from benchmarks.workload import Work
from pdserve.errors import Reason

SLO = Slo(ttft_s=1.5, tpot_s=0.125)


def served(*times_s: float, arrival_s: float = 0.0) -> Answer:
    """Return an answer with one token at each of these times after the sending."""
    work = Work((1, 2, 3), len(times_s), arrival_s)
    return Answer(Record(work, 10.0, tuple(10.0 + time_s for time_s in times_s)), times_s[-1])


def failed(reason: Reason, seconds: float, *times_s: float) -> Answer:
    tokens_s = tuple(10.0 + time_s for time_s in times_s)
    return Answer(Record(Work((1,), 9, 3.0), 10.0, tokens_s), seconds, reason)


ANSWERS = [
    served(1.5, 1.625, 1.75),  # both met, at their limits
    served(0.5),
    served(2.0, 2.5),  # late and slow
    served(0.5, 0.75),  # slow
    failed(Reason.DEADLINE_EXCEEDED, 3.0, 1.0),
    *(failed(Reason.DEADLINE_UNREACHABLE, 0.010 * number) for number in (1, 2, 3, 4)),
    failed(Reason.QUEUE_FULL, 0.050),
]


def test_every_answer_is_counted_once_and_only_refusals_have_a_latency() -> None:
    found = summarise(ANSWERS, 5.0, SLO)
    assert found.shares == {
        "met": 0.2,
        "late": 0.1,
        "slow": 0.1,
        "DEADLINE_EXCEEDED": 0.1,
        "DEADLINE_UNREACHABLE": 0.4,
        "QUEUE_FULL": 0.1,
    }
    assert (found.rate_per_s, found.goodput_per_s, found.refused_share) == (2.0, 0.4, 0.5)
    assert found.refused_p50_ms == pytest.approx(30.0)
    assert found.refused_p99_ms == pytest.approx(40 + 0.96 * 10)  # between the 4th and the 5th
    assert found.ttft_p50_ms == pytest.approx(1000.0)  # of 0.5, 0.5, 1.0, 1.5, 2.0
    assert attained(ANSWERS, 2.0, SLO) == Attainment(2.0, 2, 1, 1, num_cut=6)


def test_where_nobody_is_refused_there_is_no_latency_of_refusals() -> None:
    found = summarise([served(0.5)], 1.0, SLO)
    assert (found.refused_share, found.refused_p50_ms, found.refused_p99_ms) == (0.0, None, None)
    assert summarise([failed(Reason.QUEUE_FULL, 0.1)], 1.0, SLO).ttft_p99_ms is None


def test_the_lead_in_is_not_counted() -> None:
    early, late = served(0.5, arrival_s=4.9), served(0.5, arrival_s=5.0)
    assert arrived_after([late, early], 5.0) == [late]


def test_recovery_ends_with_the_first_token_that_came_in_time() -> None:
    probes = [
        failed(Reason.DEADLINE_UNREACHABLE, 0.01),
        served(2.0, arrival_s=31.0),  # late
        served(0.5, 0.625, arrival_s=32.0),
        served(0.25, arrival_s=34.0),
    ]
    assert recovery_s(probes, 30.0, SLO) == 2.5
    assert recovery_s(probes[:2], 30.0, SLO) is None


def test_jains_index_is_1_for_equal_shares_and_1_over_n_for_one_that_has_all() -> None:
    assert jain([2.0, 2.0]) == 1.0
    assert jain([3.0, 0.0]) == 0.5
    assert jain([3.0, 1.0]) == pytest.approx(16 / 20)
    assert jain([0.0, 0.0]) is None


def test_of_max_min_fair_parts_small_demands_are_met_and_the_rest_is_shared_evenly() -> None:
    assert max_min([9.0, 1.0], 4.0) == [3.0, 1.0]
    assert max_min([9.0, 3.0], 4.0) == [2.0, 2.0]
    assert max_min([1.0, 8.0, 8.0], 7.0) == [1.0, 3.0, 3.0]
    assert max_min([2.0, 1.0], 3.0) == [2.0, 1.0]


def test_a_tenant_that_gets_all_that_it_asked_for_was_treated_fairly() -> None:
    refused = failed(Reason.QUEUE_FULL, 0.01)
    heavy = summarise([served(0.5)] * 3 + [refused] * 6, 1.0, SLO)
    assert fairness([heavy, summarise([served(0.5)], 1.0, SLO)]) == 1.0
    # goodputs 3 and 0 of 3: fair parts would be 2 and 1, so the ratios are 1.5 and 0
    assert fairness([heavy, summarise([refused], 1.0, SLO)]) == 0.5
    nothing = summarise([refused], 1.0, SLO)
    assert fairness([nothing, nothing]) is None


def test_medians_leave_out_rounds_without_the_figure() -> None:
    assert median([3.0, None, 1.0]) == 2.0
    assert median([None, None]) is None


async def test_memory_is_seen_before_during_and_after() -> None:
    with watch({"this": os.getpid()}) as memory:
        pass
    seen = memory["this"]
    assert 0 < seen.before <= seen.peak
    assert 0 < seen.after <= seen.peak
