"""Prompts that run here and prompts that are pulled wait in one queue, with one order and one ageing.

A block holds four tokens. A sequence that runs keeps 8 of the 20 blocks, so that a long prompt has no room.
"""

import pytest

from common.engine.memory.waiting_queue import MAX_PASSES
from common.engine.sequence import Sequence
from tests.unit.common.engine.sequences import make_decoding, make_sequence
from tests.unit.decode_worker.pulls import pulled
from tests.unit.decode_worker.test_scheduler import join, make


class Worker:
    """A scheduler whose short prompts end as soon as they have entered."""

    def __init__(self) -> None:
        self.scheduler, self.pool = make()
        self.reader = join(self.scheduler, self.pool, 30)

    @property
    def waiting(self) -> list[Sequence]:
        return list(self.scheduler.admission.waiting)

    def add(self, num_tokens: int, *, is_pulled: bool, priority: int = 0) -> Sequence:
        seq = make_sequence(num_tokens, priority=priority)
        self.scheduler.admission.add(pulled(seq) if is_pulled else seq)
        return seq

    def step(self) -> list[Sequence]:
        """Return those that entered, pulls first. The short ones have left again."""
        entered: list[Sequence] = []
        while (seq := self.scheduler.next_pull(entered)) is not None:
            entered.append(seq)
        self.scheduler.schedule(entered)
        entered += [seq for seq in self.scheduler.running if seq is not self.reader]
        for seq in entered:
            self.end(seq)
        return entered

    def end(self, seq: Sequence) -> None:
        self.scheduler.remove(seq)
        self.pool.release(seq.block_table)
        seq.block_table = []


@pytest.mark.parametrize("is_long_pulled", [False, True])
@pytest.mark.parametrize("kinds", [(False,), (True,), (False, True)], ids=str)
def test_a_long_prompt_of_either_kind_ages_by_passes_of_both(
    is_long_pulled: bool, kinds: tuple[bool, ...]
) -> None:
    worker = Worker()
    long = worker.add(60, is_pulled=is_long_pulled)
    for number in range(MAX_PASSES):
        short = worker.add(2, is_pulled=kinds[number % len(kinds)])
        assert worker.step() == [short]
    late = [worker.add(2, is_pulled=is_pulled) for is_pulled in (False, True)]
    assert worker.step() == []
    assert worker.waiting == [long, *late]
    worker.end(worker.reader)
    assert [*worker.step(), *worker.step()] == [long, *late]


@pytest.mark.parametrize("is_long_pulled", [False, True])
@pytest.mark.parametrize("is_short_pulled", [False, True])
def test_a_shorter_prompt_passes_one_of_its_urgency_and_no_more_urgent_one(
    is_long_pulled: bool, is_short_pulled: bool
) -> None:
    worker = Worker()
    worker.add(60, is_pulled=is_long_pulled)
    less_urgent = worker.add(2, is_pulled=is_short_pulled, priority=1)
    assert worker.step() == []
    alike = worker.add(2, is_pulled=is_short_pulled)
    assert worker.step() == [alike]
    assert less_urgent in worker.waiting


def test_a_pull_that_lacks_credit_holds_nobody_up_and_does_not_age() -> None:
    """More of them wait than are asked for room in one walk."""
    worker = Worker()
    admission = worker.scheduler.admission
    lacking = [worker.add(2, is_pulled=True, priority=-1) for _ in range(6)]
    taken_bytes, admission._credit.taken_bytes = admission._credit.taken_bytes, 2**62
    for _ in range(MAX_PASSES + 1):
        short = worker.add(2, is_pulled=False)
        assert worker.step() == [short]
    admission._credit.taken_bytes = taken_bytes
    worker.add(60, is_pulled=False)
    assert worker.step() == lacking


def test_a_pull_without_a_place_among_the_pulls_holds_nobody_up() -> None:
    worker = Worker()
    admission = worker.scheduler.admission
    worker.add(60, is_pulled=True, priority=-1)
    here = worker.add(2, is_pulled=False)
    others = [make_sequence(1)] * admission._credit.max_pulls
    assert admission.next_pull([worker.reader], others[1:]) is None  # for lack of room
    assert admission.next_local([], others[1:3]) is None
    admission._credit.max_pulls = 2
    assert admission.next_local([], others[1:3]) is here


def test_nobody_passes_one_that_has_answered_and_waits_for_room() -> None:
    worker = Worker()
    answered = make_decoding(60, 1)
    worker.scheduler.admission.add_preempted(answered)
    late = [worker.add(2, is_pulled=is_pulled) for is_pulled in (False, True)]
    assert worker.step() == []
    assert worker.waiting == [answered, *late]


def test_tokens_that_wait_are_counted_by_the_worker_that_will_compute_them() -> None:
    worker = Worker()
    admission = worker.scheduler.admission
    here, elsewhere = worker.add(7, is_pulled=False), worker.add(9, is_pulled=True)
    assert (admission.num_local_tokens, admission.num_pulled_tokens) == (7, 9)
    worker.end(here)
    assert (admission.num_local_tokens, admission.num_pulled_tokens) == (0, 9)
    assert worker.step() == [elsewhere]
    assert (admission.num_local_tokens, admission.num_pulled_tokens) == (0, 0)
