"""Chrome traces of requests (Trace Event Format), for ui.perfetto.dev and chrome://tracing.

A process is a group of lanes: the router, each worker, and the KV transfers between two workers.
Times are microseconds since the router's start, so that concurrent requests align.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cli.phases import phases
from common.rpc.convert_timings import timings_from_pb, to_us
from common.telemetry.tracing.stages import Stage, stages_of
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2

Span = tuple[str, int, int, dict[str, int | str]]  # name, start, end, attributes
Event = dict[str, object]


def write_trace(path: Path, answers: Sequence[inference_pb2.ExplainResponse]) -> None:
    """Write the requests that have ended.

    Raises SetupError if none has ended, or if the file cannot be written.
    """
    if not any(answer.finished for answer in answers):
        raise SetupError("--trace has nothing to show", "wait until a request has ended well")
    trace = {"traceEvents": to_events(answers), "displayTimeUnit": "ms"}
    try:
        path.write_text(json.dumps(trace))
    except OSError as error:
        raise SetupError(f"--trace {path} cannot be written: {error.strerror}") from error


def to_events(answers: Iterable[inference_pb2.ExplainResponse]) -> list[Event]:
    """Return complete events (X) in their lanes, and the lanes' names (M)."""
    lanes = _Lanes()
    for answer in answers:
        for index, done in enumerate(answer.finished):
            several = len(answer.finished) > 1
            title = f"{answer.request_id}#{index}" if several else answer.request_id
            _add_request(lanes, title, answer, done)
    return lanes.events


class _Lanes:
    """Lanes with numbered processes and threads; the spans of one thread never overlap."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._numbers: dict[tuple[str, ...], int] = {}

    def add(self, process: str, thread: str, spans: Iterable[Span], offset_us: int) -> None:
        """Add spans in the order of their starts; one that overlaps goes into another lane."""
        ends: list[int] = []
        for name, start_us, end_us, facts in spans:
            # rounding to whole microseconds can cause an overlap of 1
            lane = next((i for i, end in enumerate(ends) if end <= start_us + 1), len(ends))
            if lane == len(ends):
                ends.append(0)
            start_us = max(start_us, ends[lane])
            ends[lane] = max(end_us, start_us)
            where = self._where(process, thread if not lane else f"{thread} ({lane + 1})")
            span = {"ts": offset_us + start_us, "dur": ends[lane] - start_us}
            self.events.append({"name": name, "ph": "X", **where, **span, "args": facts})

    def _where(self, process: str, thread: str) -> dict[str, int]:
        pid, is_new = self._number((process,))
        where = {"pid": pid, "tid": 0}
        if is_new:
            self._name("process_name", where, {"name": process})
            self._name("process_sort_index", where, {"sort_index": pid})
        tid, is_new = self._number((process, thread))
        where = {"pid": pid, "tid": tid}
        if is_new:
            self._name("thread_name", where, {"name": thread})
            self._name("thread_sort_index", where, {"sort_index": tid})
        return where

    def _number(self, key: tuple[str, ...]) -> tuple[int, bool]:
        is_new = key not in self._numbers
        return self._numbers.setdefault(key, len(self._numbers) + 1), is_new

    def _name(self, kind: str, where: dict[str, int], facts: dict[str, int | str]) -> None:
        self.events.append({"name": kind, "ph": "M", **where, "args": facts})


def _add_request(
    lanes: _Lanes,
    title: str,
    answer: inference_pb2.ExplainResponse,
    done: inference_pb2.Finished,
) -> None:
    timings, prefill, decode = done.timings, done.prefill_worker, done.decode_worker
    zero_us, stages = answer.arrival_us, stages_of(timings_from_pb(timings))
    whole = {"prompt_tokens": answer.prompt_tokens, "output_tokens": done.usage.completion_tokens}
    whole |= {"preemptions": timings.num_preemptions, "clock_error_us": timings.clock_error_us}
    lanes.add("router", title, [(title, 0, timings.total_us, {**whole})], zero_us)
    parts: list[Span] = [(p.name, p.start_us, p.end_us, {}) for p in phases(timings)]
    lanes.add("router", f"{title} phases", parts, zero_us)
    lanes.add(prefill, title, _chunk_spans(stages, "prefill"), zero_us)
    for name in ("copy-out", "wire", "insert"):
        lanes.add(f"KV {prefill} to {decode}", f"{title} {name}", _kv_spans(stages, name), zero_us)
    here = [*_chunk_spans(stages, "decode"), *_step_spans(timings.decode_steps)]
    lanes.add(decode, title, sorted(here, key=lambda span: span[1]), zero_us)


def _chunk_spans(stages: Sequence[Stage], place: str) -> list[Span]:
    chunks = _named(stages, "chunk")
    return _numbered("chunk", (chunk for chunk in chunks if chunk.place == place))


def _kv_spans(stages: Sequence[Stage], name: str) -> list[Span]:
    return _numbered("KV", _named(stages, name))


def _named(stages: Iterable[Stage], name: str) -> Iterator[Stage]:
    for stage in stages:
        if stage.name == name:
            yield stage
        yield from _named(stage.parts, name)


def _numbered(title: str, stages: Iterable[Stage]) -> list[Span]:
    return [
        (
            f"{title} {number}",
            to_us(stage.start_s),
            to_us(stage.end_s),
            {name.removeprefix("num_"): value for name, value in stage.facts.items()},
        )
        for number, stage in enumerate(stages, 1)
    ]


def _step_spans(steps: inference_pb2.DecodeSteps) -> list[Span]:
    """Return the steps, and one span over the steps between them that were not kept."""
    columns = zip(
        steps.start_us, steps.duration_us, steps.num_sequences, steps.num_tokens, strict=True
    )
    spans: list[Span] = [
        ("step", start, start + duration, {"sequences": sequences, "tokens": tokens})
        for start, duration, sequences, tokens in columns
    ]
    if missing := steps.num_steps - len(spans):
        half = len(spans) // 2
        gap: Span = (f"{missing} steps", spans[half - 1][2], spans[half][1], {})
        spans.insert(half, gap)
    return spans
