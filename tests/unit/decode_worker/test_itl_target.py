"""A step of n rows takes 10 + n seconds; there is no attention in these costs."""

from dataclasses import replace

import pytest

from common.profile import WorkerProfile
from tests.unit.common.engine.sequences import make_sequence
from tests.unit.decode_worker.test_scheduler import arriving, join, make, run, shape

PROFILE = WorkerProfile(
    row_counts=(1, 101),
    row_seconds=(11.0, 111.0),
    sample_s=0.0,
    position_s=0.0,
    pair_s=0.0,
    max_batch_tokens=100,
    max_num_seqs=8,
)


@pytest.mark.parametrize(("target_s", "chunk"), [(0.0, 50), (60.0, 48), (37.5, 25), (1.0, 16)])
def test_a_prompt_gets_what_the_target_leaves_beside_those_that_decode(
    target_s: float, chunk: int
) -> None:
    scheduler, pool = make(100, profile=replace(PROFILE, itl_target_s=target_s))
    decoding = [join(scheduler, pool, 2) for _ in range(2)]
    prompt = make_sequence(50)
    scheduler.join(prompt)
    assert run(scheduler) == [*((seq, 1) for seq in decoding), (prompt, chunk)]


def test_a_prompt_alone_runs_as_fast_as_it_can() -> None:
    scheduler, _ = make(100, profile=replace(PROFILE, itl_target_s=1.0))
    prompt = make_sequence(50)
    scheduler.admission.add(prompt)
    assert run(scheduler) == [(prompt, 50)]


def test_no_more_sequences_enter_than_decode_within_the_target() -> None:
    scheduler, pool = make(100, profile=replace(PROFILE, itl_target_s=13.0))
    join(scheduler, pool, 2)
    for _ in range(4):
        scheduler.admission.add(make_sequence(2))
    assert len(run(scheduler)) == 3
    assert not scheduler.admission.can_admit(make_sequence(2), scheduler.running, [])


def test_those_on_their_way_count() -> None:
    scheduler, pool = make(100, profile=replace(PROFILE, itl_target_s=13.0))
    seq = join(scheduler, pool, 2)
    scheduler.admission.add(make_sequence(2))
    assert shape(scheduler.schedule(arriving(pool, 2))) == [(seq, 1)]
    assert len(shape(scheduler.schedule(arriving(pool, 1)))) == 2
