"""Arithmetic of benchmarks/replacement."""

import pytest

from benchmarks.replacement.rolling import Spans, summarise
from benchmarks.replacement.users import Answer, itl_ms, percentile


def answer(*times_s: float, error: str = "") -> Answer:
    return Answer(0.0, times_s, "" if error else "decode-0", error)


def test_a_gap_belongs_to_the_part_in_which_its_later_token_came() -> None:
    answers = [answer(1.0, 1.5, 3.0), answer(2.25), answer(), answer(1.75, 2.0)]
    assert itl_ms(answers, 0.0, 2.0) == [500.0]
    assert itl_ms(answers, 2.0, 4.0) == [1500.0, 250.0]


def test_the_part_under_replacement_is_compared_with_both_undisturbed_ones() -> None:
    answers = [answer(0.0, 0.1), answer(1.0, 1.4), answer(2.0, 2.3, error="lost"), answer()]
    found = summarise(answers, Spans((0.0, 1.0), (1.0, 2.0), (2.0, 3.0)))
    assert (found["requests"], found["lost"], found["errors"]) == (4, 1, ["lost"])
    assert found["ITL p99, ms"] == {"before": 100.0, "during": 400.0, "after": 300.0}
    assert found["p99 during / undisturbed"] == 1.34  # 298 is the 99th percentile of 100 and 300


def test_a_part_without_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)
