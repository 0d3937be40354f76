"""The stable JSON form of a request's timings; all in microseconds."""

from collections.abc import Iterable

from common.rpc.convert_timings import timings_from_pb, to_us
from common.telemetry.tracing.stages import Stage, stages_of
from pdserve.v1 import inference_pb2


def describe_timings(timings: inference_pb2.Timings) -> dict[str, object]:
    """Return all timings but the decode steps, which are many."""
    return {
        "queue_us": timings.queue_us,
        "pull_us": timings.pull_us,
        "first_token_us": timings.first_token_us,
        "handoff_us": timings.handoff_us,
        "decode_us": timings.decode_us,
        "total_us": timings.total_us,
        "kv_bytes": timings.kv_bytes,
        "num_preemptions": timings.num_preemptions,
        "clock_error_us": timings.clock_error_us,
        "prefill_chunks": [
            {
                "start_us": chunk.start_us,
                "duration_us": chunk.duration_us,
                "num_tokens": chunk.num_tokens,
                "is_remote": chunk.is_remote,
            }
            for chunk in timings.prefill_chunks
        ],
        "transfers": [
            {
                "copy_out_start_us": transfer.copy_out_start_us,
                "copy_out_us": transfer.copy_out_us,
                "wire_us": transfer.wire_us,
                "insert_start_us": transfer.insert_start_us,
                "insert_us": transfer.insert_us,
                "num_tokens": transfer.num_tokens,
                "num_bytes": transfer.num_bytes,
            }
            for transfer in timings.transfers
        ],
    }


def describe_spans(timings: inference_pb2.Timings) -> list[dict[str, object]]:
    """Return the stages of a request, since its arrival, as a trace has them."""
    return _describe_stages(stages_of(timings_from_pb(timings)))


def _describe_stages(stages: Iterable[Stage]) -> list[dict[str, object]]:
    return [
        {
            "name": stage.name,
            "place": stage.place,
            "start_us": to_us(stage.start_s),
            "end_us": to_us(stage.end_s),
            **stage.facts,
            "parts": _describe_stages(stage.parts),
        }
        for stage in stages
    ]


def describe_steps(steps: inference_pb2.DecodeSteps) -> dict[str, object]:
    """Return columns with one entry a step: the first and the last of num_steps."""
    return {
        "num_steps": steps.num_steps,
        "start_us": list(steps.start_us),
        "duration_us": list(steps.duration_us),
        "num_sequences": list(steps.num_sequences),
        "num_tokens": list(steps.num_tokens),
    }
