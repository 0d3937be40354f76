"""Gaps between tokens in a span of time."""

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.questions import Question
from benchmarks.death_beside import Round, gaps_ms
from pdserve.v1 import inference_pb2


def asking(*times_s: float) -> Asking:
    question = Question("greedy", "", inference_pb2.SamplingParams())
    return Asking(question, "a", times_s=list(times_s))


def test_a_gap_is_of_the_span_in_which_it_ends() -> None:
    both = [asking(1.0, 1.5, 2.5, 3.0), asking(2.0, 2.25)]
    assert gaps_ms(both, 1.5, 2.5) == [500.0, 250.0]
    assert gaps_ms(both, 2.5, 9.0) == [1000.0, 500.0]


def test_the_ratio_is_to_another_span_of_the_same_round() -> None:
    p99_ms = {"before": 20.0, "during": 44.0, "after": 40.0}
    found = Round(recovery_s=15.0, num_streams=4, p50_ms={}, p99_ms=p99_ms)
    assert (found.ratio_to("after"), found.ratio_to("before")) == (1.1, 2.2)
