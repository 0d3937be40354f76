"""Learning from observed times, by hand: a step of n rows is predicted to take 10 + n seconds."""

import pytest

from common.engine.batch import Batch, BatchEntry
from common.engine.profiling.costs import Costs
from common.profile import WorkerProfile
from tests.unit.common.engine.sequences import make_decoding, make_sequence

PROFILE = WorkerProfile(
    row_counts=(1, 101),
    row_seconds=(11.0, 111.0),
    sample_s=0.0,
    position_s=1.0,
    pair_s=0.5,
    copy_out_byte_s=2.0,
    insert_byte_s=4.0,
)
DECODE = Batch(tuple(BatchEntry(make_decoding(10, 1), 1) for _ in range(3)))  # 13 + 30 positions
PROMPT = Batch((BatchEntry(make_sequence(40), 40),))  # 50 + 800 pairs / 2
LATER = Batch((BatchEntry(make_sequence(60, computed=20), 40),))  # 50 + (800 + 800) / 2
MIXED = Batch((*DECODE.entries, *PROMPT.entries))  # 43 + 40 + 400


@pytest.mark.parametrize(
    ("batch", "predicted_s", "name"),
    [(DECODE, 43, "decode"), (PROMPT, 450, "prefill"), (LATER, 850, "prefill")],
)
def test_a_step_twice_as_long_as_predicted_teaches_its_kind_alone(
    batch: Batch, predicted_s: float, name: str
) -> None:
    costs = Costs(PROFILE)
    costs.note_step(batch, 2 * predicted_s)
    expected = {"decode": 1.0, "prefill": 1.0, name: 1.2}  # a fifth of the way
    correction = costs.profile.correction
    assert {"decode": correction.decode, "prefill": correction.prefill} == pytest.approx(expected)
    for _ in range(60):
        costs.note_step(batch, 2 * predicted_s)
    assert getattr(costs.profile.correction, name) == pytest.approx(2.0, rel=1e-4)


def test_of_a_mixed_step_the_prompt_is_charged_with_what_decoding_does_not_explain() -> None:
    costs = Costs(PROFILE)
    costs.note_step(MIXED, 43 + 3 * 440)
    assert costs.profile.correction.prefill == pytest.approx(1.4)
    assert costs.profile.correction.decode == 1.0


def test_a_few_prompt_tokens_beside_many_that_decode_teach_nothing() -> None:
    batch = Batch((*DECODE.entries, BatchEntry(make_sequence(2), 2)))
    costs = Costs(PROFILE)
    costs.note_step(batch, 1000.0)
    assert costs.profile == PROFILE


def test_a_stall_counts_as_four_times_at_most() -> None:
    costs = Costs(PROFILE)
    costs.note_step(DECODE, 43 * 1000)
    assert costs.profile.correction.decode == pytest.approx(1 + 0.2 * 3)
    costs = Costs(PROFILE)
    costs.note_step(DECODE, 0.0)
    assert costs.profile.correction.decode == pytest.approx(1 - 0.2 * 0.75)


def test_copies_and_handoffs_are_learnt_too() -> None:
    costs = Costs(PROFILE)
    for _ in range(60):
        costs.note_copy_out(100, 600.0)
        costs.note_insert(100, 200.0)
        costs.note_handoff(0.25)
    correction = costs.profile.correction
    assert (correction.copy_out, correction.insert, correction.handoff_s) == pytest.approx(
        (3.0, 0.5, 0.25), rel=1e-4
    )


def test_handoffs_that_seem_to_take_no_time_do_not_blind_it() -> None:
    costs = Costs(PROFILE)
    for _ in range(100):
        costs.note_handoff(-1.0)
    for _ in range(30):
        costs.note_handoff(0.01)
    assert costs.profile.correction.handoff_s == pytest.approx(0.01, rel=0.05)


def test_what_is_left_of_a_prompt_follows_what_was_learnt() -> None:
    costs = Costs(PROFILE)
    half_run = make_sequence(60, computed=20)
    assert costs.seconds_left(half_run) == 850  # as LATER
    for _ in range(60):
        costs.note_step(PROMPT, 2 * 450)
    assert costs.seconds_left(half_run) == pytest.approx(1700, rel=1e-4)


def test_nothing_is_learnt_where_nothing_was_predicted() -> None:
    costs = Costs(PROFILE)
    costs.note_copy_out(0, 1.0)
    assert costs.profile == PROFILE


def test_a_new_measurement_starts_anew() -> None:
    costs = Costs(PROFILE)
    costs.note_handoff(1.0)
    costs.begin(WorkerProfile())
    assert costs.profile == WorkerProfile()


def num_stale(costs: Costs, *steps: tuple[Batch, float, int]) -> int:
    """Count the calls of `on_stale` after so many steps of so many seconds each."""
    calls: list[bool] = []
    costs.begin(PROFILE, lambda: calls.append(True))
    for batch, seconds, count in steps:
        for _ in range(count):
            costs.note_step(batch, seconds)
    return len(calls)


@pytest.mark.parametrize(
    ("batch", "seconds"), [(DECODE, 3 * 43), (DECODE, 43 / 3), (PROMPT, 3 * 450), (PROMPT, 450 / 3)]
)
def test_a_profile_that_was_wrong_for_a_minute_is_stale_once(batch: Batch, seconds: float) -> None:
    assert num_stale(Costs(), (batch, seconds, 100)) == 1


def test_a_profile_within_twice_what_is_seen_is_not_stale() -> None:
    steps = [
        (batch, s, 100) for batch, p in ((DECODE, 43), (PROMPT, 450)) for s in (1.9 * p, 0.6 * p)
    ]
    assert num_stale(Costs(), *steps) == 0


def test_a_burst_shorter_than_a_minute_makes_nothing_stale() -> None:
    """Steps are a hundredth as long as those above: 1.29 s each when slow, so 40 of them are 52 s."""
    small = WorkerProfile(
        row_counts=(1, 101), row_seconds=(0.11, 1.11), sample_s=0.0, position_s=0.01, pair_s=0.005
    )
    costs, calls = Costs(), [0]

    def count() -> None:
        calls[0] += 1

    costs.begin(small, count)
    for _ in range(3):
        for _ in range(40):
            costs.note_step(DECODE, 1.29)
        for _ in range(40):
            costs.note_step(DECODE, 0.43)
    assert calls == [0]
    for _ in range(60):
        costs.note_step(DECODE, 1.29)
    assert calls == [1]
