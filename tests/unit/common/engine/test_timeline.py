import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.remote_prefill import RemotePrefill
from common.engine.timeline import STEPS_KEPT, StepLog, Timeline
from common.timings import DecodeStepTiming, PrefillChunkTiming, TransferTiming, WorkTimings
from tests.examples import examples


def test_the_summary_counts_from_arrival() -> None:
    timeline = Timeline(arrival_s=10.0)
    timeline.record_chunk(10.5, 11.5, 64)
    timeline.record_chunk(12.0, 12.25, 8)
    timeline.joined_decode_s = 12.75
    timeline.steps.add(DecodeStepTiming(12.75, 0.125, 3, 40))
    timeline.kv_bytes, timeline.num_preemptions, timeline.num_cached_tokens = 4096, 2, 16
    assert timeline.summary() == WorkTimings(
        queue_s=0.5,
        prefill_chunks=(PrefillChunkTiming(0.5, 1.0, 64), PrefillChunkTiming(2.0, 0.25, 8)),
        handoff_s=0.0,  # nothing was handed off
        kv_bytes=4096,
        num_preemptions=2,
        num_cached_tokens=16,
        decode_steps=(DecodeStepTiming(2.75, 0.125, 3, 40),),
        num_decode_steps=1,
    )


def test_a_sequence_that_never_ran_has_no_durations() -> None:
    assert Timeline(arrival_s=10.0).summary() == WorkTimings()
    asked = Timeline(arrival_s=10.0, remote=RemotePrefill(asked_s=10.25))
    assert asked.summary() == WorkTimings(pull_s=0.25)


def test_what_prefill_timed_is_moved_to_decode_s_clock() -> None:
    # Decode: arrival 100, asks at 101. Prefill's zero is somewhere between 101 and the least of
    # 103.5 - 1.5 = 102 (first KV), 106.5 - 5 = 101.5 (token 1), 107.5 - 5.5 = 102 (last KV): 101.25 +- 0.25.
    remote = RemotePrefill(asked_s=101.0)
    remote.note_transfer((1.0, 0.5), 103.5, (104.0, 104.25), 64, 640)
    remote.note_first_token([(0.5, 0.25, 64), (2.0, 3.0, 9)], 5.0, 106.5)
    remote.note_transfer((5.25, 0.25), 107.5, (108.0, 108.5), 9, 90)
    assert (remote.zero_s, remote.error_s) == (101.25, 0.25)
    assert remote.end_s == 106.25
    timeline = Timeline(arrival_s=100.0, remote=remote, joined_decode_s=109.0)
    summary = timeline.summary()
    assert (summary.pull_s, summary.queue_s, summary.clock_error_s) == (1.0, 1.75, 0.25)
    assert summary.handoff_s == 109.0 - 106.25
    assert summary.prefill_chunks == (
        PrefillChunkTiming(1.75, 0.25, 64, is_remote=True),
        PrefillChunkTiming(3.25, 3.0, 9, is_remote=True),
    )
    assert summary.transfers == (
        TransferTiming(2.25, 0.5, 103.5 - 102.75, 4.0, 0.25, 64, 640),
        TransferTiming(6.5, 0.25, 107.5 - 106.75, 8.0, 0.5, 9, 90),
    )


def test_chunks_that_decode_had_to_run_itself_come_behind() -> None:
    timeline = Timeline(arrival_s=1.0, remote=RemotePrefill(asked_s=1.0))
    assert timeline.remote is not None
    timeline.remote.note_first_token([(0.0, 1.0, 64)], 1.0, 2.0)
    timeline.record_chunk(5.0, 6.0, 9)
    assert timeline.prefill_chunks == (
        PrefillChunkTiming(0.0, 1.0, 64, is_remote=True),
        PrefillChunkTiming(4.0, 1.0, 9),
    )


gaps = st.floats(0, 10)


@settings(deadline=None, derandomize=True, max_examples=examples(60))
@given(
    apart_s=st.floats(-1e6, 1e6),
    travel_s=gaps,
    chunks=st.lists(st.tuples(gaps, gaps, gaps, gaps, gaps), min_size=1, max_size=5),
)
def test_whatever_the_clocks_say_spans_keep_their_order_and_the_error_is_as_stated(
    apart_s: float, travel_s: float, chunks: list[tuple[float, float, float, float, float]]
) -> None:
    """Prefill's clock is `apart_s` ahead; everything takes as long as is drawn."""
    remote = RemotePrefill(asked_s=50.0)
    zero_s = now_s = 50.0 + travel_s
    steps, arrived_s = [], 0.0
    for compute_s, copy_s, wire_s, wait_s, insert_s in chunks:
        start_s, now_s = now_s, now_s + compute_s
        steps.append((start_s - zero_s, compute_s, 1))
        # as prefill reckons: two readings of its own clock
        copied_at_s = (now_s + apart_s) - (zero_s + apart_s)
        now_s += copy_s
        arrived_s = max(arrived_s, now_s + wire_s)
        begun_s = arrived_s + wait_s
        remote.note_transfer(
            (max(copied_at_s, 0.0), copy_s), arrived_s, (begun_s, begun_s + insert_s), 1, 1
        )
    remote.note_first_token(steps, now_s - zero_s, now_s + 10)
    slack = 1e-6
    assert abs(remote.zero_s - zero_s) <= remote.error_s + slack
    assert remote.zero_s >= 50.0
    for transfer in remote.transfers(0.0):
        assert transfer.wire_s >= 0
        copied_s = transfer.copy_out_start_s + transfer.copy_out_s
        assert copied_s + transfer.wire_s <= transfer.insert_start_s + slack


def test_nonsense_from_the_other_side_gives_no_negative_span() -> None:
    remote = RemotePrefill(asked_s=10.0)
    remote.note_transfer((1e9, 5.0), 11.0, (12.0, 13.0), 1, 1)
    (transfer,) = remote.transfers(10.0)
    assert (remote.zero_s, remote.error_s, transfer.wire_s) == (10.0, 0.0, 0.0)


@pytest.mark.parametrize("num_steps", [0, 1, STEPS_KEPT, STEPS_KEPT + 1, 5 * STEPS_KEPT])
def test_of_many_steps_the_first_and_the_last_are_kept(num_steps: int) -> None:
    log, steps = StepLog(), [DecodeStepTiming(float(i), 1.0, 1, 1) for i in range(num_steps)]
    for step in steps:
        log.add(step)
    kept = steps[:STEPS_KEPT] + steps[STEPS_KEPT:][-STEPS_KEPT:]
    assert (list(log), log.num_steps) == (kept, num_steps)


def test_another_zero_moves_every_start_and_no_duration() -> None:
    work = WorkTimings(
        queue_s=1.0,
        prefill_chunks=(PrefillChunkTiming(1.0, 2.0, 3),),
        handoff_s=4.0,
        pull_s=0.5,
        transfers=(TransferTiming(3.0, 0.25, 0.5, 4.0, 0.125, 3, 30),),
        decode_steps=(DecodeStepTiming(5.0, 0.5, 2, 2),),
        num_decode_steps=1,
        clock_error_s=0.0625,
    )
    assert work.after(10.0) == WorkTimings(
        queue_s=11.0,
        prefill_chunks=(PrefillChunkTiming(11.0, 2.0, 3),),
        handoff_s=4.0,
        pull_s=10.5,
        transfers=(TransferTiming(13.0, 0.25, 0.5, 14.0, 0.125, 3, 30),),
        decode_steps=(DecodeStepTiming(15.0, 0.5, 2, 2),),
        num_decode_steps=1,
        clock_error_s=0.0625,
    )
    assert WorkTimings().after(10.0) == WorkTimings(queue_s=10.0)
