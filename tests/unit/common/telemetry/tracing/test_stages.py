"""Stages of round numbers: prefill elsewhere, prefill here, and a preemption."""

from common.telemetry.tracing.stages import Stage, stages_of
from common.timings import DecodeStepTiming, PrefillChunkTiming, TransferTiming, WorkTimings

STEPS = (DecodeStepTiming(10.0, 0.5, 4, 4), DecodeStepTiming(11.0, 0.5, 3, 3))
HANDED_OFF = WorkTimings(
    queue_s=2.0,
    prefill_chunks=(
        PrefillChunkTiming(2.0, 1.0, 512, is_remote=True),
        PrefillChunkTiming(4.0, 2.0, 76, is_remote=True),
    ),
    pull_s=0.5,
    transfers=(
        TransferTiming(3.0, 0.25, 0.5, 4.0, 0.25, 512, 1024),
        TransferTiming(6.0, 0.25, 0.5, 7.0, 0.25, 76, 152),
    ),
    decode_steps=STEPS,
    num_decode_steps=2,
)


def shape(stages: list[Stage]) -> list[tuple[str, str, float, float]]:
    return [(stage.name, stage.place, stage.start_s, stage.end_s) for stage in stages]


def test_a_hand_off_has_every_stage_at_its_place() -> None:
    stages = stages_of(HANDED_OFF)
    assert shape(stages) == [
        ("queue", "decode", 0.0, 0.5),
        ("queue", "prefill", 0.5, 2.0),
        ("prefill", "prefill", 2.0, 6.0),
        ("transfer", "decode", 3.0, 3.75),
        ("insert", "decode", 4.0, 4.25),
        ("transfer", "decode", 6.0, 6.75),
        ("insert", "decode", 7.0, 7.25),
        ("wait", "decode", 7.25, 10.0),
        ("decode", "decode", 10.0, 11.5),
    ]
    prefill, transfer, decode = stages[2], stages[5], stages[-1]
    assert shape(list(prefill.parts)) == [
        ("chunk", "prefill", 2.0, 3.0),
        ("chunk", "prefill", 4.0, 6.0),
    ]
    assert prefill.facts == {"num_tokens": 588, "num_chunks": 2}
    assert shape(list(transfer.parts)) == [
        ("copy-out", "prefill", 6.0, 6.25),
        ("wire", "decode", 6.25, 6.75),
    ]
    assert transfer.facts == {"num_tokens": 76, "num_bytes": 152}
    assert decode.facts == {"num_steps": 2, "num_sequences": 4}


def test_a_prompt_that_runs_where_it_decodes_has_one_queue_and_no_transfer() -> None:
    here = WorkTimings(2.0, (PrefillChunkTiming(2.0, 1.0, 9),), decode_steps=STEPS)
    assert shape(stages_of(here)) == [
        ("queue", "decode", 0.0, 2.0),
        ("prefill", "decode", 2.0, 3.0),
        ("decode", "decode", 10.0, 11.5),
    ]


def test_chunks_behind_the_first_step_recompute() -> None:
    chunks = (PrefillChunkTiming(2.0, 1.0, 9), PrefillChunkTiming(10.5, 0.25, 12))
    again = WorkTimings(2.0, chunks, decode_steps=STEPS)
    assert [stage.name for stage in stages_of(again)] == [
        "queue",
        "prefill",
        "recompute",
        "decode",
    ]


def test_a_prompt_that_fell_back_has_both_prefills() -> None:
    """The prefill worker failed after a chunk, and the decode worker ran the rest."""
    chunks = (PrefillChunkTiming(2.0, 1.0, 512, is_remote=True), PrefillChunkTiming(5.0, 1.0, 76))
    both = WorkTimings(2.0, chunks, pull_s=0.5)
    assert shape(stages_of(both))[2:] == [
        ("prefill", "prefill", 2.0, 3.0),
        ("prefill", "decode", 5.0, 6.0),
    ]


def test_what_did_not_happen_has_no_stage() -> None:
    assert stages_of(WorkTimings()) == []
