from dataclasses import replace

from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from tests.unit.common.engine.sequences import hold, make_decoding, make_sequence
from tests.unit.decode_worker.pulls import pulled
from tests.unit.decode_worker.test_scheduler import join, make, run


def test_the_more_urgent_enters_first_and_then_who_came_first() -> None:
    scheduler, _ = make(max_num_seqs=1)
    late, first, second, urgent = (
        make_sequence(2, max_tokens=1, priority=priority) for priority in (1, 0, 0, -1)
    )
    for seq in (late, first, second, urgent):
        scheduler.admission.add(seq)
    entered: list[Sequence] = []
    for _ in range(4):
        ((seq, _),) = run(scheduler)
        entered.append(seq)
        scheduler.remove(seq)
    assert entered == [urgent, first, second, late]


def test_the_more_urgent_prompt_takes_its_chunk_first() -> None:
    scheduler, _ = make()
    later, urgent = make_sequence(12), make_sequence(12, priority=-1)
    scheduler.join(later)
    scheduler.join(urgent)
    assert run(scheduler) == [(urgent, 12), (later, 4)]


def test_the_least_urgent_is_preempted_the_newest_of_several() -> None:
    scheduler, pool = make(num_blocks=8)
    seqs = [make_decoding(7, 9, priority=priority) for priority in (1, 1, 0, 0)]
    for seq in seqs:
        scheduler.join(hold(pool, seq))
    run(scheduler)
    assert run(scheduler) == [(seqs[2], 1), (seqs[3], 1)]
    assert list(scheduler.admission.waiting) == [seqs[0], seqs[1]]


def test_one_that_has_answered_goes_before_the_most_urgent() -> None:
    scheduler, pool = make(num_blocks=6)
    oldest, newest = join(scheduler, pool, 11), join(scheduler, pool, 11)
    urgent = make_sequence(2, priority=-100)
    run(scheduler)
    scheduler.admission.add(urgent)
    run(scheduler)
    assert list(scheduler.admission.waiting) == [newest, urgent]
    scheduler.remove(oldest)
    pool.release(oldest.block_table)
    assert run(scheduler) == [(newest, 13), (urgent, 2)]


def test_a_more_urgent_one_sets_out_before_one_that_waits_here() -> None:
    scheduler, _ = make()
    here, urgent, other = make_sequence(2), make_sequence(2, priority=-1), make_sequence(2)
    for seq in (here, pulled(urgent), pulled(other)):
        scheduler.admission.add(seq)
    assert scheduler.next_pull([]) is urgent
    assert scheduler.next_pull([urgent]) is None
    assert list(scheduler.admission.waiting) == [here, other]


def test_there_is_no_room_while_an_older_sequence_waits_here() -> None:
    scheduler, _ = make()
    older, seq, younger = make_sequence(2), pulled(make_sequence(2)), make_sequence(2)
    for one in (seq, younger):
        scheduler.admission.add(one)
    assert scheduler.next_pull([]) is seq
    scheduler.remove(younger)
    for one in (older, seq):
        scheduler.admission.add(one)
    assert scheduler.next_pull([]) is None
    assert run(scheduler) == [(older, 2)]
    assert scheduler.next_pull([]) is seq


def test_one_that_waits_for_its_group_keeps_no_pull_from_setting_out() -> None:
    scheduler, _ = make()
    request = replace(make_sequence(12).request, group="g")
    leader, follower = (Sequence(request, Timeline(arrival_s=0.0)) for _ in range(2))
    for seq in (leader, follower):
        scheduler.admission.add(seq)
    assert [entry.seq for entry in scheduler.schedule().entries] == [leader]  # type: ignore[union-attr]
    assert list(scheduler.admission.waiting) == [follower]
    elsewhere = pulled(make_sequence(2))
    scheduler.admission.add(elsewhere)
    assert scheduler.next_pull([]) is elsewhere


def test_who_must_yield_does_not_enter() -> None:
    scheduler, pool = make()
    here, urgent = make_sequence(2), pulled(make_sequence(60, priority=-1))
    for seq in (here, urgent):
        scheduler.admission.add(seq)
    blocks = pool.allocate(10)
    assert scheduler.next_pull([]) is None  # it would take 16 of the 10 that are left
    assert scheduler.schedule() is None
    assert list(scheduler.admission.waiting) == [here, urgent]
    pool.release(blocks)
    assert scheduler.next_pull([]) is urgent
    assert scheduler.next_pull([urgent]) is None
    assert run(scheduler) == [(here, 2)]
