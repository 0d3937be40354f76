"""Phases of a request's time line; each begins where the one before ends."""

from typing import NamedTuple

from pdserve.v1 import inference_pb2

HANDOFF_PHASES = ("copy-out", "wire", "wait", "insert", "join")


class Phase(NamedTuple):
    """One phase, in microseconds since the request's arrival at the router."""

    name: str
    start_us: int
    end_us: int


def phases(timings: inference_pb2.Timings) -> list[Phase]:
    """Return the phases: queue, prefill, HANDOFF_PHASES, decode.

    Only the part of the hand-off that is not hidden by prefill counts. Its phases are those of the
    last KV: earlier KV was transferred while prefill ran.
    """
    found, reached_us = [], 0
    for name, end_us in _ends(timings):
        end_us = min(max(end_us, reached_us), max(timings.total_us, reached_us))
        found.append(Phase(name, reached_us, end_us))
        reached_us = end_us
    return found


def first_step_us(timings: inference_pb2.Timings) -> int | None:
    """Return when the first decode step with this request began; None if there was none."""
    starts = timings.decode_steps.start_us
    return starts[0] if starts else None


def _ends(timings: inference_pb2.Timings) -> list[tuple[str, int]]:
    joined_us = first_step_us(timings)
    ends = [("queue", timings.queue_us), ("prefill", prefill_end_us(timings))]
    if timings.transfers and joined_us is not None:
        last = timings.transfers[-1]
        copied_us = last.copy_out_start_us + last.copy_out_us
        moments_us = (
            copied_us,
            copied_us + last.wire_us,
            last.insert_start_us,
            last.insert_start_us + last.insert_us,
            joined_us,
        )
        ends += zip(HANDOFF_PHASES, moments_us, strict=True)
    return [*ends, ("decode", timings.total_us)]


def prefill_end_us(timings: inference_pb2.Timings) -> int:
    """Return the end of the prompt's last step; recomputation after a preemption does not count."""
    joined_us = first_step_us(timings)
    ends = [
        chunk.start_us + chunk.duration_us
        for chunk in timings.prefill_chunks
        if joined_us is None or chunk.start_us < joined_us
    ]
    return max(ends, default=timings.queue_us)
