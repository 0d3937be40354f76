"""Stages of a choice on its workers: the one source of spans, for OTLP and for `pdserve explain`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from common.timings import PrefillChunkTiming, TransferTiming, WorkTimings


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage in seconds, counted as the timings are. `facts` are numbers by name."""

    name: str
    place: Literal["prefill", "decode"]
    start_s: float
    end_s: float
    facts: Mapping[str, int]
    parts: tuple["Stage", ...] = ()


def stages_of(timings: WorkTimings) -> list[Stage]:
    """Return the stages of timings that count from the sending of the choice, or from its arrival.

    They are queue, prefill (its parts are chunks), transfer (copy-out, wire), insert, wait,
    recompute (chunks after a preemption), and decode. Those that did not happen are left out.
    """
    joined_s = timings.decode_steps[0].start_s if timings.decode_steps else None
    remote: list[PrefillChunkTiming] = []
    local: list[PrefillChunkTiming] = []
    again: list[PrefillChunkTiming] = []
    for chunk in timings.prefill_chunks:
        is_first = joined_s is None or chunk.start_s < joined_s
        (remote if chunk.is_remote else local if is_first else again).append(chunk)
    return [
        *_queues(timings),
        *_computing("prefill", "prefill", remote),
        *_computing("prefill", "decode", local),
        *_transfers(timings.transfers),
        *_wait(timings, joined_s),
        *_computing("recompute", "decode", again),
        *_decode(timings),
    ]


def _queues(timings: WorkTimings) -> Iterator[Stage]:
    """Yield the wait for room on the decode worker, and the one for the prefill worker."""
    if timings.pull_s is None:
        if timings.prefill_chunks:
            yield Stage("queue", "decode", 0.0, timings.queue_s, {})
        return
    yield Stage("queue", "decode", 0.0, timings.pull_s, {})
    if timings.queue_s > timings.pull_s:
        yield Stage("queue", "prefill", timings.pull_s, timings.queue_s, {})


def _computing(
    name: str, place: Literal["prefill", "decode"], chunks: list[PrefillChunkTiming]
) -> Iterator[Stage]:
    if not chunks:
        return
    parts = tuple(
        Stage("chunk", place, c.start_s, c.start_s + c.duration_s, {"num_tokens": c.num_tokens})
        for c in chunks
    )
    facts = {"num_tokens": sum(c.num_tokens for c in chunks), "num_chunks": len(chunks)}
    start_s, end_s = min(p.start_s for p in parts), max(p.end_s for p in parts)
    yield Stage(name, place, start_s, end_s, facts, parts)


def _transfers(transfers: Iterable[TransferTiming]) -> Iterator[Stage]:
    for t in transfers:
        facts = {"num_tokens": t.num_tokens, "num_bytes": t.num_bytes}
        copied_s = t.copy_out_start_s + t.copy_out_s
        arrived_s = copied_s + t.wire_s
        parts = (
            Stage("copy-out", "prefill", t.copy_out_start_s, copied_s, facts),
            Stage("wire", "decode", copied_s, arrived_s, facts),
        )
        yield Stage("transfer", "decode", t.copy_out_start_s, arrived_s, facts, parts)
        yield Stage("insert", "decode", t.insert_start_s, t.insert_start_s + t.insert_s, facts)


def _wait(timings: WorkTimings, joined_s: float | None) -> Iterator[Stage]:
    """Yield the wait of a sequence whose KV is there for the next decode step."""
    if not timings.transfers or joined_s is None:
        return
    last = timings.transfers[-1]
    before = (c for c in timings.prefill_chunks if c.start_s < joined_s)
    ends_s = (last.insert_start_s + last.insert_s, *(c.start_s + c.duration_s for c in before))
    ready_s = max(ends_s)
    if ready_s < joined_s:
        yield Stage("wait", "decode", ready_s, joined_s, {})


def _decode(timings: WorkTimings) -> Iterator[Stage]:
    if timings.decode_steps:
        first, last = timings.decode_steps[0], timings.decode_steps[-1]
        facts = {"num_steps": timings.num_decode_steps, "num_sequences": first.num_sequences}
        yield Stage("decode", "decode", first.start_s, last.start_s + last.duration_s, facts)
