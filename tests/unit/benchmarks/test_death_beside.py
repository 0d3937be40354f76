"""Gaps between tokens in the spans of a round."""

from dataclasses import replace

import pytest

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.questions import Question
from benchmarks.death_beside.rounds import _again
from benchmarks.death_beside.spans import Times, gaps_ms, gone_on_s, make_round
from pdserve.v1 import inference_pb2

STREAM = (0.0, 1.0, 2.0, 5.0, 6.5, 8.0, 9.0, 10.25, 10.5, 20.0, 22.0, 24.5, 25.0)
# `moving` and `control` last 4 s, `starting` and `after` 1 s
TIMES = Times(begin_s=0.0, kill_s=2.0, moved_s=6.0, back_s=7.0, after_s=9.5, control_s=21.0)


def asking(*times_s: float) -> Asking:
    question = Question("greedy", "Once upon ", inference_pb2.SamplingParams())
    return Asking(question, "a", times_s=list(times_s))


def test_a_gap_is_of_the_span_in_which_it_ends() -> None:
    both = [asking(1.0, 1.5, 2.5, 3.0), asking(2.0, 2.25)]
    assert gaps_ms(both, 1.5, 2.5) == [500.0, 250.0]
    assert gaps_ms(both, 2.5, 9.0) == [1000.0, 500.0]


def test_each_gap_counts_in_its_span_and_in_that_of_both() -> None:
    found = make_round([asking(*STREAM)], TIMES)
    assert found.p99_ms == {
        "before": 1000.0,
        "moving": 3000.0,
        "starting": 1500.0,
        "during": 3000.0,
        "control": 2500.0,
        "after": 1250.0,
        "calm": 2500.0,
    }
    assert (found.p50_ms["control"], found.p50_ms["calm"]) == (2250.0, 2000.0)
    assert (found.recovery_s, found.moved_s, found.num_streams) == (5.0, 4.0, 1)
    assert found.ratio("moving", "control") == found.ratio("starting", "after") == 1.2


def test_spans_without_a_death_are_as_long_as_those_with_it() -> None:
    assert make_round([asking(*STREAM)], replace(TIMES, back_s=8.1)).p50_ms["after"] == 750.0
    # 3.1 s from 21.3 s on: the gap that ended at 22.0 s, and not that at 24.5 s
    found = make_round([asking(*STREAM)], replace(TIMES, moved_s=5.1, control_s=21.3))
    assert found.p99_ms["control"] == 2000.0


def test_a_round_in_which_no_stream_moved_in_time_counts_for_nothing() -> None:
    with pytest.raises(RuntimeError, match="no stream moved"):
        make_round([asking(*STREAM)], replace(TIMES, moved_s=8.0))


def test_a_span_without_a_gap_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"in these spans: control$"):
        make_round([asking(*STREAM)], replace(TIMES, control_s=30.0))


def test_a_stream_has_moved_where_its_longest_gap_since_the_kill_ends() -> None:
    assert gone_on_s(asking(0.0, 4.0, 4.1, 5.5, 5.6, 9.0), 4.05, back_s=8.0) == 9.0
    assert gone_on_s(asking(0.0, 4.0, 4.1, 5.5, 5.6, 9.0), 4.05, back_s=5.6) == 5.5


def test_the_controls_prompt_is_what_a_stream_that_moves_brings_along() -> None:
    moving = asking()
    moving.completion.add(inference_pb2.GenerateResponse(text="a time"))
    again = _again(moving)
    assert (again.question.prompt, again.request_id) == ("Once upon a time", "a-again")
