from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.phases import Phase, phases
from pdserve.v1 import inference_pb2
from tests.unit.cli.timed import finished


def test_a_hand_off_is_cut_at_the_last_kv_s_moments() -> None:
    assert phases(finished().timings) == [
        Phase("queue", 0, 20_000),
        Phase("prefill", 20_000, 50_000),
        Phase("copy-out", 50_000, 53_000),
        Phase("wire", 53_000, 57_000),
        Phase("wait", 57_000, 60_000),
        Phase("insert", 60_000, 65_000),
        Phase("join", 65_000, 70_000),
        Phase("decode", 70_000, 200_000),
    ]


def test_the_hand_off_s_phases_sum_to_it() -> None:
    timings = finished().timings
    parts = [phase for phase in phases(timings) if phase.name not in ("queue", "prefill", "decode")]
    assert sum(phase.end_us - phase.start_us for phase in parts) == timings.handoff_us


def test_a_prompt_that_ran_where_it_decodes_has_no_hand_off() -> None:
    timings = finished().timings
    timings.ClearField("transfers")
    assert [phase.name for phase in phases(timings)] == ["queue", "prefill", "decode"]
    assert phases(timings)[-1] == Phase("decode", 50_000, 200_000)


def test_what_a_preemption_made_run_again_is_part_of_decode() -> None:
    timings = finished().timings
    timings.prefill_chunks.add(start_us=90_000, duration_us=10_000, num_tokens=1200)
    assert phases(timings) == phases(finished().timings)


def test_token_1_alone_needs_no_decode_step() -> None:
    timings = finished(num_steps=0, num_kept=0).timings
    timings.total_us = 56_000
    assert phases(timings)[-1] == Phase("decode", 50_000, 56_000)


moments = st.integers(0, 10**6)
chunks = st.builds(inference_pb2.PrefillChunk, start_us=moments, duration_us=moments)
transfers = st.builds(
    inference_pb2.KVTransfer,
    copy_out_start_us=moments,
    copy_out_us=moments,
    wire_us=moments,
    insert_start_us=moments,
    insert_us=moments,
)


@settings(deadline=None, derandomize=True)
@given(
    moments,
    moments,
    st.lists(chunks, max_size=3),
    st.lists(transfers, max_size=3),
    st.lists(moments, max_size=2),
)
def test_phases_are_in_order_and_cover_the_whole_request_whatever_was_reported(
    queue_us: int,
    total_us: int,
    some: list[inference_pb2.PrefillChunk],
    ways: list[inference_pb2.KVTransfer],
    starts: list[int],
) -> None:
    timings = inference_pb2.Timings(
        queue_us=queue_us, total_us=total_us, prefill_chunks=some, transfers=ways
    )
    timings.decode_steps.start_us.extend(starts)
    found = phases(timings)
    assert found[0].start_us == 0
    assert found[-1].end_us == total_us
    for before, after in pairwise(found):
        assert before.start_us <= before.end_us == after.start_us
    assert sum(phase.end_us - phase.start_us for phase in found) == total_us


@pytest.mark.parametrize("name", ["queue", "prefill", "decode"])
def test_nothing_known_is_no_phase_longer_than_nothing(name: str) -> None:
    assert Phase(name, 0, 0) in phases(inference_pb2.Timings())
