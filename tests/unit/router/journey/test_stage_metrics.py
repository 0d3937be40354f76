"""Tests of the stages' times, made of a worker's report."""

import pytest
from prometheus_client import CollectorRegistry

from common.timings import DecodeStepTiming, PrefillChunkTiming, WorkTimings
from router.journey.stage_metrics import StageMetrics


def noted(timings: WorkTimings) -> dict[str, float]:
    """Return the sums and counters after one choice, submitted half a second after it came."""
    registry = CollectorRegistry()
    StageMetrics(registry).note(0.5, timings)
    endings = ("_sum", "_total", "_count")
    samples = (sample for metric in registry.collect() for sample in metric.samples)
    return {s.name: s.value for s in samples if s.name.endswith(endings)}


def test_each_stage_has_its_span() -> None:
    found = noted(
        WorkTimings(
            queue_s=0.25,
            prefill_chunks=(
                PrefillChunkTiming(0.25, 0.5, 64, is_remote=True),
                PrefillChunkTiming(1.0, 0.5, 36, is_remote=True),
            ),
            handoff_s=0.125,
            kv_bytes=4096,
            decode_steps=(DecodeStepTiming(1.75, 0.25, 1, 1), DecodeStepTiming(3.0, 0.5, 1, 1)),
            num_decode_steps=2,
        )
    )
    sums = {
        "request_queue_time": 0.75,
        "request_prefill_time": 1.25,
        "handoff": 0.125,
        "request_decode_time": 1.75,
    }
    assert {name: found[f"pdserve_{name}_seconds_sum"] for name in sums} == pytest.approx(sums)
    assert found["pdserve_prefill_chunks_total"] == 2
    assert found["pdserve_kv_shipped_bytes_total"] == 4096


def test_a_chunk_behind_a_preemption_is_no_part_of_prefill() -> None:
    found = noted(
        WorkTimings(
            prefill_chunks=(PrefillChunkTiming(0.0, 0.5, 8), PrefillChunkTiming(9.0, 0.5, 9)),
            decode_steps=(DecodeStepTiming(1.0, 0.5, 1, 1), DecodeStepTiming(10.0, 0.5, 1, 1)),
            num_decode_steps=2,
        )
    )
    assert found["pdserve_request_prefill_time_seconds_sum"] == 0.5
    assert found["pdserve_prefill_chunks_total"] == 2
    assert found["pdserve_handoff_seconds_count"] == 0  # it stayed on its worker


def test_a_choice_without_chunks_or_steps_has_only_its_queue() -> None:
    found = noted(WorkTimings())
    counts = {name: value for name, value in found.items() if name.endswith("_count") and value}
    assert counts == {"pdserve_request_queue_time_seconds_count": 1}
