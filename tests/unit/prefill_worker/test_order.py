"""Ranks computed by hand: a token takes 10 ms, so a prompt of 100 takes a second."""

from dataclasses import replace

import pytest

from common.engine.sequence import Sequence
from prefill_worker.order import PrefillOrder
from tests.unit.common.engine.sequences import make_sequence

ORDER = PrefillOrder(lambda seq: seq.num_uncomputed_tokens * 0.01)
NOW_S = 100.0


def prompt(
    num_tokens: int,
    *,
    waited_s: float = 0.0,
    deadline_in_s: float | None = None,
    priority: int = 0,
    computed: int = 0,
) -> Sequence:
    timeout_s = None if deadline_in_s is None else waited_s + deadline_in_s
    seq = make_sequence(num_tokens, computed=computed, timeout_s=timeout_s)
    seq.request = replace(seq.request, priority=priority)
    seq.timeline.arrival_s = NOW_S - waited_s
    return seq


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (prompt(100), prompt(200)),  # the shorter one
        (prompt(300, computed=250), prompt(100)),  # what is left counts
        (prompt(300, waited_s=2.5), prompt(100)),  # 0.5 s left after ageing, before 1 s
        (prompt(100), prompt(300, waited_s=1.5)),
        (prompt(100, deadline_in_s=1.5), prompt(10)),  # half a second to spare: now
        (prompt(10), prompt(100, deadline_in_s=5)),  # four to spare: as if there were none
        (prompt(100, deadline_in_s=1.2), prompt(100, deadline_in_s=1.5)),  # less to spare
        (prompt(200), prompt(100, deadline_in_s=0.5)),  # cannot be met any more
        (prompt(500, priority=-1), prompt(10, deadline_in_s=0.3)),  # priority comes before all
        (prompt(10, priority=1), prompt(10, priority=2, waited_s=50)),
    ],
)
def test_who_goes_first(first: Sequence, second: Sequence) -> None:
    assert ORDER.rank(first, NOW_S) < ORDER.rank(second, NOW_S)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (prompt(150, waited_s=0.4), prompt(160, waited_s=0.5)),  # 1.9 s in all, and 2.1: too late
        (prompt(10), prompt(160, waited_s=0.5)),
        (prompt(160, waited_s=8.1), prompt(10)),  # four targets long it let others pass
        (prompt(160, waited_s=0.5, deadline_in_s=2), prompt(10)),  # a deadline counts for more
        (prompt(160, waited_s=0.5, priority=-1), prompt(10)),
    ],
)
def test_who_misses_the_ttft_target_lets_the_others_meet_theirs(
    first: Sequence, second: Sequence
) -> None:
    order = PrefillOrder(lambda seq: seq.num_uncomputed_tokens * 0.01, ttft_target_s=2.0)
    assert order.rank(first, NOW_S) < order.rank(second, NOW_S)


def test_what_a_prompt_has_waited_on_its_decode_worker_counts() -> None:
    order = PrefillOrder(lambda seq: seq.num_uncomputed_tokens * 0.01, ttft_target_s=2.0)
    late, other = prompt(60), prompt(160)
    assert order.rank(late, NOW_S) < order.rank(other, NOW_S)
    late.request = replace(late.request, waited_s=1.5)
    assert order.rank(other, NOW_S) < order.rank(late, NOW_S)


def test_a_long_prompt_falls_behind_newcomers_no_longer_than_it_would_run() -> None:
    """A prompt of 3 s of work is passed by short ones that come within 3 s, and by none later."""
    seq = prompt(300)
    for waited_s, is_passed in ((0.0, True), (2.5, True), (3.0, False), (10.0, False)):
        newcomer = make_sequence(1)
        newcomer.timeline.arrival_s = NOW_S + waited_s
        passed = ORDER.rank(newcomer, NOW_S + waited_s) < ORDER.rank(seq, NOW_S + waited_s)
        assert passed is is_passed
