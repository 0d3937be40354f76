import asyncio
from collections.abc import AsyncGenerator

import pytest

from benchmarks.load_generator import Record
from benchmarks.slo_attainment import Attainment, Slo, attainment, count
from benchmarks.workload import Work

SLO = Slo(ttft_s=1.5, tpot_s=0.1)


def record(*times_s: float) -> Record:
    """Return a record sent at 10 s, with one token at each of these times after that."""
    work = Work((1, 2, 3), output_tokens=len(times_s))
    return Record(work, 10.0, tuple(10.0 + time_s for time_s in times_s))


def test_every_request_is_counted_once() -> None:
    records = [
        record(1.5, 1.5, 1.75),  # both met, at their limits
        record(1.4),  # one token has no TPOT
        record(1.51, 1.52, 1.53),  # late
        record(1.6, 5.0, 9.0),  # late and slow
        record(0.25, 0.5, 0.75),  # slow
    ]
    found = count(records, rate_per_s=2.0, slo=Slo(1.5, 0.125), num_cut=3)
    assert found == Attainment(2.0, num_met=2, num_late=2, num_slow=1, num_cut=3)
    assert found.share == 2 / 8


def test_a_request_is_decided_when_even_the_slowest_that_meets_both_would_have_ended() -> None:
    assert SLO.decided_s(Work((1,), 11)) == pytest.approx(1.5 + 10 * 0.1)


class Scripted:
    """Target that answers at once; outputs of `stuck` tokens stop after the first."""

    def __init__(self, stuck: int) -> None:
        self._stuck = stuck
        self.num_abandoned = 0

    async def stream(self, work: Work) -> AsyncGenerator[int]:
        yield 1
        if work.output_tokens == self._stuck:
            try:
                await asyncio.Event().wait()
            finally:
                self.num_abandoned += 1
        for _ in range(work.output_tokens - 1):
            yield 1


async def test_what_cannot_meet_the_slo_any_more_is_cut_at_the_end() -> None:
    target, done = Scripted(stuck=3), list[int]()
    works = [Work((1,), outputs, 0.01 * outputs) for outputs in (1, 2, 3, 4)]
    found = await attainment(target, works, 100.0, Slo(0.5, 0.05), lambda: done.append(1))
    assert (found.num_cut, target.num_abandoned, len(done)) == (1, 1, 3)
    assert found.num_met + found.num_late + found.num_slow == 3


async def test_a_target_that_breaks_ends_the_measurement() -> None:
    class Broken:
        async def stream(self, work: Work) -> AsyncGenerator[int]:
            yield work.output_tokens - 1

    with pytest.raises(RuntimeError, match="asked for 2 tokens, got 1"):
        await attainment(Broken(), [Work((1,), 2)], 1.0, SLO, lambda: None)
