"""Gaps between tokens in a span of time."""

import pytest

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.questions import Question
from benchmarks.death_beside import _gone_on_s, gaps_ms, make_round
from pdserve.v1 import inference_pb2


def asking(*times_s: float) -> Asking:
    question = Question("greedy", "", inference_pb2.SamplingParams())
    return Asking(question, "a", times_s=list(times_s))


def test_a_gap_is_of_the_span_in_which_it_ends() -> None:
    both = [asking(1.0, 1.5, 2.5, 3.0), asking(2.0, 2.25)]
    assert gaps_ms(both, 1.5, 2.5) == [500.0, 250.0]
    assert gaps_ms(both, 2.5, 9.0) == [1000.0, 500.0]


def test_each_gap_counts_in_its_span_and_those_of_the_death_in_both() -> None:
    found = make_round([asking(0.0, 1.0, 2.0, 5.0, 6.5, 8.0)], (0.0, 2.0, 6.0, 7.0, 9.0))
    assert found.p99_ms == {
        "before": 1000.0,
        "moving": 3000.0,
        "starting": 1500.0,
        "during": 3000.0,
        "after": 1500.0,
    }
    assert (found.recovery_s, found.moved_s, found.num_streams) == (5.0, 4.0, 1)
    assert (found.ratio("during", "after"), found.ratio("starting", "after")) == (2.0, 1.0)


def test_a_round_in_which_no_stream_moved_in_time_counts_for_nothing() -> None:
    with pytest.raises(RuntimeError, match="no stream moved"):
        make_round([asking(0.0, 1.0)], (0.0, 2.0, 8.0, 7.0, 9.0))


def test_a_stream_has_moved_where_its_longest_gap_since_the_kill_ends() -> None:
    assert _gone_on_s(asking(0.0, 4.0, 4.1, 5.5, 5.6), 4.05) == 5.5
