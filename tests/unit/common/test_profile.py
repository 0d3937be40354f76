"""Costs by hand: a step of n rows takes 10 + n seconds, up to 20 tokens a step."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.profile import Correction, WorkerProfile, count_pairs

PROFILE = WorkerProfile(
    row_counts=(1, 21),
    row_seconds=(11.0, 31.0),
    sample_s=0.5,
    position_s=0.25,
    pair_s=0.125,
    copy_out_byte_s=2.0,
    insert_byte_s=3.0,
    kv_bytes_per_token=4,
    max_batch_tokens=20,
    max_num_seqs=8,
)


def test_pairs_are_the_area_under_the_causal_mask() -> None:
    assert count_pairs(10) == 50
    assert count_pairs(10, 100) == 1050
    # a prompt in two chunks has as many as in one
    assert count_pairs(6) + count_pairs(4, 6) == count_pairs(10)


def test_a_decode_step_is_its_rows_samples_and_positions() -> None:
    assert PROFILE.decode_step_s(4, 100) == 14 + 4 * 0.5 + 100 * 0.25
    assert PROFILE.decode_step_s(0, 100) == 0


def test_a_prompt_alone_pays_each_step_and_its_attention() -> None:
    assert PROFILE.prompt_s(10, 50) == 20 + 50 * 0.125
    # 50 tokens: steps of 20, 20 and 10
    assert PROFILE.prompt_s(50, 0) == 30 + 30 + 20
    assert PROFILE.prompt_s(0, 0) == 0


def test_beside_others_a_prompt_pays_only_its_rows_and_runs_in_smaller_chunks() -> None:
    assert PROFILE.prompt_s(10, 0, 4) == 10
    assert (PROFILE.num_steps(32, 4), PROFILE.num_steps(33, 4)) == (2, 3)
    assert (PROFILE.last_chunk(32, 4), PROFILE.last_chunk(33, 4), PROFILE.last_chunk(5, 4)) == (
        16,
        1,
        5,
    )


def test_an_itl_target_leaves_a_prompt_what_decoding_does_not_take() -> None:
    """Four sequences of 20 positions take 14 + 2 + 5; n tokens of the prompt n, and 1/8 a pair of theirs."""
    profile = replace(PROFILE, max_batch_tokens=100, row_counts=(1, 101), row_seconds=(11.0, 111.0))
    far = replace(profile, itl_target_s=21.0 + 40 + 800 / 8)
    assert far.prompt_budget(4, 20) == 40
    # 32 behind 10 others: 32 + (320 + 512) / 8 = 136; 33 would be 33 + (330 + 544.5) / 8 = 142.3
    assert replace(far, itl_target_s=21.0 + 140).prompt_budget(4, 20, start=10) == 32
    # alone, a prompt disturbs nobody; beside others it goes on, if only slowly
    assert replace(far, itl_target_s=1.0).prompt_budget(0) == 100
    assert replace(far, itl_target_s=1.0).prompt_budget(90) == 10
    assert replace(far, itl_target_s=1.0).num_steps(32, 4) == 2


def test_an_itl_target_limits_the_batch_to_what_decodes_within_it() -> None:
    """A sequence of 20 positions adds 1 + 0.5 + 5 to the step's 10."""
    limited = replace(PROFILE, itl_target_s=10 + 3 * 6.5)
    assert limited.can_run_step(3, 60)
    assert not limited.can_run_step(4, 80)
    assert (limited.num_places(20), PROFILE.num_places(20)) == (3, 8)
    assert not PROFILE.can_run_step(9, 0)
    # the first may always decode
    assert limited.can_run_step(1, 1000)
    assert limited.num_places(1000) == 1


def test_a_batch_as_large_as_the_budget_still_leaves_a_token_a_step() -> None:
    assert PROFILE.num_steps(3, 25) == 3


@pytest.mark.parametrize(
    ("counts", "seconds", "rows", "expected"),
    [
        ((1, 8, 32), (10.0, 17.0, 29.0), 4, 13.0),  # between the first two
        ((1, 8, 32), (10.0, 17.0, 29.0), 8, 17.0),  # a point itself
        ((1, 8, 32), (10.0, 17.0, 29.0), 20, 23.0),
        ((1, 8, 32), (10.0, 17.0, 29.0), 64, 45.0),  # beyond the last, on its slope
        ((4, 8), (10.0, 12.0), 2, 9.0),  # before the first, on the first slope
        ((4, 8), (1.0, 9.0), 1, 0.0),  # never below nothing
    ],
)
def test_the_curve_goes_through_its_points_and_on(
    counts: tuple[int, ...], seconds: tuple[float, ...], rows: int, expected: float
) -> None:
    profile = WorkerProfile(counts, seconds, sample_s=0.0, position_s=0.0)
    assert profile.decode_step_s(rows, 0) == pytest.approx(expected)


def test_copies_go_by_bytes() -> None:
    assert PROFILE.copy_out_s(5) == 40
    assert PROFILE.insert_s(5) == 60


def test_a_correction_scales_each_kind_of_work() -> None:
    correction = Correction(prefill=2.0, decode=3.0, copy_out=5.0, insert=7.0)
    corrected = replace(PROFILE, correction=correction)
    assert corrected.prompt_s(10, 50) == 2 * PROFILE.prompt_s(10, 50)
    assert corrected.decode_step_s(4, 100) == 3 * PROFILE.decode_step_s(4, 100)
    assert corrected.copy_out_s(5) == 200
    assert corrected.insert_s(5) == 420


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 30))
def test_more_tokens_never_take_less_time(few: int, more: int, num_decoding: int) -> None:
    less_s = PROFILE.prompt_s(few, count_pairs(few), num_decoding)
    assert less_s < PROFILE.prompt_s(few + more, count_pairs(few + more), num_decoding)


@pytest.mark.parametrize(
    "change",
    [
        {"row_counts": (), "row_seconds": ()},
        {"row_counts": (1,), "row_seconds": (1.0,)},
        {"row_counts": (1, 2), "row_seconds": (1.0,)},
        {"row_counts": (2, 1)},
        {"row_counts": (0, 1)},
        {"row_counts": (1, 1)},
        {"row_seconds": (1.0, math.nan)},
        {"pair_s": -1.0},
        {"insert_byte_s": math.inf},
        {"max_batch_tokens": 0},
        {"max_num_seqs": 0},
        {"kv_bytes_per_token": -1},
        {"state_bytes": -1},
        {"correction": Correction(handoff_s=-1.0)},
    ],
)
def test_what_cannot_be_reckoned_with_is_not_sound(change: dict[str, object]) -> None:
    assert PROFILE.is_sound()
    assert not replace(PROFILE, **change).is_sound()  # type: ignore[arg-type]
