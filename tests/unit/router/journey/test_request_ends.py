"""Tests of the log line and the count that each accepted request leaves."""

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.messages import FinishReason, SequenceOutput, WorkFailure
from pdserve.errors import Reason, RequestCancelledError, RequestError, RequestTimeoutError
from router.access.tenant import ANONYMOUS, Tenant
from tests.unit.router.journey.routed import make_job, read, until
from tests.unit.router.journey.world import FIRST, World

MARKER = "what the user said"
TIMES = ("queue_s", "ttft_s", "total_s")


@contextmanager
def ends() -> Iterator[list[MutableMapping[str, Any]]]:
    """Collect the lines of the ends of requests."""
    found: list[MutableMapping[str, Any]] = []
    with capture_logs() as lines:
        yield found
    found += [line for line in lines if line["event"] == "request_ended"]


def finished(world: World) -> dict[str, float]:
    """Return the ends that were counted, by reason, without the zeros."""
    (metric,) = world.routed.metrics.finished.collect()
    samples = (s for s in metric.samples if s.name.endswith("_total") and s.value)
    return {sample.labels["reason"]: sample.value for sample in samples}


async def test_a_request_leaves_one_line_with_its_account(tmp_path: Path) -> None:
    world = World(tmp_path)
    job = replace(make_job(tenant=Tenant("acme")), cache_salt=MARKER, stop=(MARKER,))
    with ends() as lines:
        task = asyncio.create_task(read(world.journeys, job))
        await until(lambda: world.routed.decode.num_live == 1)
        world.routed.say("me/0/acme/r", "one", ends=True)
        await task
    (line,) = lines
    queue_s, ttft_s, total_s = (line.pop(name) for name in TIMES)
    assert 0 <= queue_s <= ttft_s <= total_s
    assert line == {
        "event": "request_ended",
        "log_level": "info",
        "request_id": "r",
        "tenant": "acme",
        "outcome": "completed",
        "reason": "length",
        "prefill": "p",
        "decode": "d",
        "num_choices": 1,
        "num_prompt_tokens": 100,
        "num_output_tokens": 3,
        "num_moves": 0,
    }
    assert finished(world) == {"length": 1}
    assert world.routed.metrics.output_tokens._value.get() == 3


async def test_a_request_is_cut_if_one_of_its_choices_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    task = await world.start_sent(num_choices=2)
    with ends() as lines:
        world.routed.say(f"{FIRST}#0", "one", ends=True)
        stopped = SequenceOutput(f"{FIRST}#1", 0, tuple(b"two!"), FinishReason.STOP)
        world.routed.decode._hand_out(stopped)
        await task
    (line,) = lines
    found = (line["reason"], line["num_choices"], line["num_output_tokens"])
    assert found == ("length", 2, 7)


async def test_a_cancel_in_the_queue_leaves_a_line_without_workers(tmp_path: Path) -> None:
    world = World(tmp_path)
    first, second = await world.start_queued()
    with ends() as lines:
        world.journeys.cancel(ANONYMOUS, "waits")
        with pytest.raises(RequestCancelledError):
            await second
    (line,) = lines
    names = ("outcome", "reason", "prefill", "decode", "queue_s", "ttft_s")
    assert [line[name] for name in names] == ["cancelled", "CANCELLED", None, None, None, None]
    await world.finish(first)
    assert finished(world) == {"CANCELLED": 1, "length": 1}


async def test_a_deadline_is_told_from_a_cancel(tmp_path: Path) -> None:
    world = World(tmp_path)
    first, second = await world.start_queued(timeout_s=0.01)
    with ends() as lines, pytest.raises(RequestTimeoutError):
        await second
    assert [(line["outcome"], line["reason"]) for line in lines] == [
        ("cancelled", "DEADLINE_EXCEEDED")
    ]
    await world.finish(first)


async def test_a_client_that_leaves_leaves_a_line(tmp_path: Path) -> None:
    world = World(tmp_path)
    task = await world.start_sent()
    world.routed.say(FIRST, "one")
    await until(lambda: world.routed.admission.num_queued == 0)
    with ends() as lines:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (line,) = lines
    found = (line["outcome"], line["reason"], line["num_output_tokens"])
    assert found == ("cancelled", "CANCELLED", 3)
    assert world.routed.metrics.output_tokens._value.get() == 3


async def test_a_failure_is_named_by_its_reason_and_not_quoted(tmp_path: Path) -> None:
    world = World(tmp_path)
    task = await world.start_sent()
    world.routed.fail(FIRST, WorkFailure(Reason.NAN_LOGITS, MARKER))
    with ends() as lines, pytest.raises(RequestError):
        await task
    (line,) = lines
    assert (line["outcome"], line["reason"]) == ("failed", "NAN_LOGITS")
    assert MARKER not in str(line)
    assert finished(world) == {"NAN_LOGITS": 1}


async def test_a_request_that_moved_names_its_last_worker_and_its_moves(tmp_path: Path) -> None:
    world = World(tmp_path)
    spare, task = world.routed.add_decode("e"), await world.start_sent()
    world.routed.say(FIRST, "on")
    await until(lambda: world.routed.admission.num_queued == 0)
    with ends() as lines:
        world.routed.decode.is_connected = False
        world.routed.fail(FIRST, WorkFailure(Reason.WORKER_LOST, "gone", is_death=True))
        await until(lambda: spare.num_live == 1)
        spare._hand_out(SequenceOutput(f"{FIRST}~2", 2, tuple(b"e"), FinishReason.LENGTH))
        await task
    (line,) = lines
    assert (line["decode"], line["num_moves"], line["num_output_tokens"]) == ("e", 1, 3)
