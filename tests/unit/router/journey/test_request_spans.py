"""Spans of requests over played workers, whose reports a test makes up."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.messages import FinishReason, SequenceOutput, WorkFailure
from common.telemetry.tracing.caller import Caller
from common.telemetry.tracing.exporter import SpanExporter
from common.telemetry.tracing.span import EndedTrace, Span
from common.telemetry.tracing.tracing import Tracing
from common.timings import DecodeStepTiming, PrefillChunkTiming, WorkTimings
from pdserve.errors import Reason, RequestCancelledError
from router.access.tenant import ANONYMOUS, Tenant
from tests.unit.router.journey.routed import make_job, read, until
from tests.unit.router.journey.world import FIRST, World

MARKER = "what the user said"
CALLER = Caller(0.0, "chat", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
TIMINGS = WorkTimings(
    0.5,
    (PrefillChunkTiming(0.5, 0.25, 100),),
    num_cached_tokens=7,
    decode_steps=(DecodeStepTiming(1.0, 0.5, 2, 2),),
    num_decode_steps=1,
)


class Kept(SpanExporter):
    """Exporter that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(lambda batch: 0)
        self.ended: list[EndedTrace] = []

    def put(self, trace: EndedTrace) -> None:
        """Keep a trace."""
        self.ended.append(trace)


def traced_world(folder: Path) -> tuple[World, Kept]:
    kept = Kept()
    return World(folder, tracing=Tracing(kept, 1.0, "tiny")), kept


def only(spans: tuple[Span, ...], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def say_end(world: World, work_id: str = FIRST, timings: WorkTimings | None = TIMINGS) -> None:
    output = SequenceOutput(work_id, 0, tuple(b"one"), FinishReason.LENGTH, timings=timings)
    world.routed.decode._hand_out(output)


async def test_a_request_s_span_has_its_names_and_numbers_and_nothing_that_was_said(
    tmp_path: Path,
) -> None:
    world, kept = traced_world(tmp_path)
    job = make_job(tenant=Tenant("acme"), stop=(MARKER,))
    job = replace(job, caller=CALLER, cache_salt=MARKER)
    with capture_logs() as lines:
        task = asyncio.create_task(read(world.journeys, job))
        await until(lambda: world.routed.decode.num_live == 1)
        say_end(world, "me/0/acme/r")
        await task
    (ended,) = kept.ended
    check_names_and_numbers(ended.root)
    (line,) = [line for line in lines if line["event"] == "request_ended"]
    assert line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736" == ended.trace.name
    assert MARKER not in str(ended)


def check_names_and_numbers(root: Span) -> None:
    assert (root.name, root.start_s, root.error, root.is_server) == ("chat tiny", 0.0, "", True)
    seconds = root.attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(seconds, float)
    assert dict(root.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "pdserve",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 7,
        "gen_ai.response.id": "r",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.response.time_to_first_chunk": seconds,
        "pdserve.request_id": "r",
        "pdserve.tenant": "acme",
        "pdserve.outcome": "completed",
        "pdserve.num_moves": 0,
    }
    assert [event.name for event in root.events] == ["token 1"]


async def test_the_workers_stages_stand_where_the_choice_was_sent(tmp_path: Path) -> None:
    world, kept = traced_world(tmp_path)
    task = await world.start_sent()
    say_end(world)
    await task
    root = kept.ended[0].root
    attempt = only(root.children, "attempt")
    assert [stage.name for stage in attempt.children] == ["queue", "prefill", "decode"]
    decode = only(attempt.children, "decode")
    assert (decode.service, decode.end_s - attempt.start_s) == (("decode", "d"), 1.5)
    assert only(root.children, "queue").end_s <= attempt.start_s <= attempt.end_s <= root.end_s


async def test_a_move_is_a_second_attempt_and_the_first_one_says_why(tmp_path: Path) -> None:
    world, kept = traced_world(tmp_path)
    spare, task = world.routed.add_decode("e"), await world.start_sent()
    early = SequenceOutput(FIRST, 0, tuple(b"on"), timings=TIMINGS)
    world.routed.decode._hand_out(early)
    await until(lambda: world.routed.admission.num_queued == 0)
    world.routed.decode.is_connected = False
    with capture_logs() as lines:
        world.routed.fail(FIRST, WorkFailure(Reason.WORKER_LOST, "gone", is_death=True))
        await until(lambda: spare.num_live == 1)
        last = SequenceOutput(f"{FIRST}~2", 2, tuple(b"e"), FinishReason.LENGTH, timings=TIMINGS)
        spare._hand_out(last)
        summary = (await task)[-1].summary
    (ended,) = kept.ended
    first, second = (span for span in ended.root.children if span.name == "attempt")
    assert (first.error, second.error, ended.root.error) == ("WORKER_LOST", "", "")
    assert first.end_s <= second.start_s
    places = [span.attributes["pdserve.decode_worker"] for span in (first, second)]
    assert places == ["d", "e"]
    assert [span.attributes["pdserve.attempt"] for span in (first, second)] == [1, 2]
    assert only(first.children, "prefill").service == ("decode", "d")
    assert only(second.children, "prefill").start_s == second.start_s + 0.5
    assert ended.root.attributes["pdserve.num_moves"] == 1
    # `explain` counts the new worker's stages from there too
    assert summary is not None
    arrival_s = only(ended.root.children, "queue").start_s
    assert summary.submitted_s >= second.start_s - arrival_s
    (line,) = [line for line in lines if line["event"] == "request_moved"]
    assert line["trace_id"] == ended.trace.name


async def test_each_choice_has_its_attempt(tmp_path: Path) -> None:
    world, kept = traced_world(tmp_path)
    task = await world.start_sent(num_choices=2)
    say_end(world, f"{FIRST}#0")
    stopped = SequenceOutput(f"{FIRST}#1", 0, tuple(b"two"), FinishReason.STOP)
    world.routed.decode._hand_out(stopped)
    await task
    root = kept.ended[0].root
    choices = [s.attributes["pdserve.choice"] for s in root.children if s.name == "attempt"]
    assert choices == [0, 1]
    assert root.attributes["gen_ai.response.finish_reasons"] == ("length", "stop")
    assert root.attributes["gen_ai.request.choice.count"] == 2


async def test_a_request_that_never_left_the_queue_has_no_attempt(tmp_path: Path) -> None:
    world, kept = traced_world(tmp_path)
    first, second = await world.start_queued()
    world.journeys.cancel(ANONYMOUS, "waits")
    with pytest.raises(RequestCancelledError):
        await second
    (ended,) = kept.ended
    assert [span.name for span in ended.root.children] == ["queue"]
    assert (ended.root.error, ended.root.attributes["error.type"]) == ("CANCELLED", "CANCELLED")
    assert ended.root.attributes["pdserve.outcome"] == "cancelled"
    await world.finish(first)


async def test_a_client_that_leaves_ends_the_attempt_that_runs(tmp_path: Path) -> None:
    world, kept = traced_world(tmp_path)
    task = await world.start_sent()
    world.routed.decode._hand_out(SequenceOutput(FIRST, 0, tuple(b"on"), timings=TIMINGS))
    await until(lambda: world.routed.admission.num_queued == 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    attempt = only(kept.ended[0].root.children, "attempt")
    assert attempt.error == "CANCELLED"
    assert [stage.name for stage in attempt.children] == ["queue", "prefill", "decode"]


async def test_of_a_long_prompt_the_first_and_the_last_chunks_are_kept(tmp_path: Path) -> None:
    world, kept = traced_world(tmp_path)
    task = await world.start_sent()
    chunks = tuple(PrefillChunkTiming(float(n), 0.5, n) for n in range(1000))
    say_end(world, timings=WorkTimings(prefill_chunks=chunks))
    await task
    prefill = only(only(kept.ended[0].root.children, "attempt").children, "prefill")
    numbers = [chunk.attributes["pdserve.num_tokens"] for chunk in prefill.children]
    assert numbers == [*range(64), *range(936, 1000)]
    assert prefill.attributes["pdserve.num_chunks"] == 1000


async def test_a_request_that_is_not_sampled_leaves_no_spans_and_no_trace_id(
    tmp_path: Path,
) -> None:
    kept = Kept()
    world = World(tmp_path, tracing=Tracing(kept, 0.0, "tiny"))
    with capture_logs() as lines:
        task = await world.start_sent()
        await world.finish(task)
    assert kept.ended == []
    assert not [line for line in lines if "trace_id" in line]
