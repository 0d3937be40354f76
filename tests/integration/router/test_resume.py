"""Resumption: a client that lost its stream gets the rest, each message once."""

import asyncio
from pathlib import Path

import pytest

from common.router_config import RouterConfig
from pdserve.client import AsyncClient
from pdserve.errors import (
    DuplicateRequestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    UnavailableError,
)
from pdserve.v1 import inference_pb2
from tests.integration.support.resumed_streams import LATE, begin, rest
from tests.integration.support.router_stack import Stack, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.integration.support.tcp_relay import relaying


async def test_a_connection_that_breaks_costs_no_token_and_doubles_none(
    patient: Stack, worker: ScriptedWorker
) -> None:
    async with (
        relaying(patient.address) as (address, relay),
        AsyncClient(address, retries=False) as client,
    ):
        stream = client.stream("x", request_id="r", resumable=True)
        first = asyncio.ensure_future(anext(stream))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "one ", 0)
        read = [await first]
        relay.lose()
        with pytest.raises(UnavailableError) as caught:
            await anext(stream)
        assert caught.value.reason is Reason.ROUTER_UNREACHABLE
        worker.say(request, "two ", 4)  # while no client listens
        # another connection's call: gRPC may send one more on that which breaks, before it notes so
        resumed = patient.client.resume("r", read[-1].sequence + 1)
        read.append(await anext(resumed))
        worker.say(request, "three", 8, ends=True)
        read += [part async for part in resumed]
    assert [part.text for part in read] == ["one ", "two ", "three"]
    assert [part.sequence for part in read] == [0, 1, 2]
    assert [part.index for part in read] == [0, 4, 8]
    assert read[-1].finished.usage.completion_tokens == 13
    totals = await patient.until_idle()
    assert (totals.accepted, totals.completed, totals.cancelled) == (1, 1, 0)
    assert len(worker.requests) == 1


async def test_an_ended_request_can_be_read_again_from_anywhere(
    patient: Stack, worker: ScriptedWorker
) -> None:
    request, read = await begin(patient.client, worker)
    worker.say(request, "de", 3, ends=True)
    await patient.until_idle()
    whole = await rest(patient.client, 0)
    assert text_of(whole) == "abcde"
    assert whole[:3] == read
    for sequence in range(len(whole) + 1):
        assert await rest(patient.client, sequence) == whole[sequence:]
    with pytest.raises(InvalidRequestError, match="beyond the 4 messages") as caught:
        await rest(patient.client, len(whole) + 1)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "resume_from")


async def test_every_choice_goes_on(patient: Stack, worker: ScriptedWorker) -> None:
    stream = patient.client.stream(
        "x", inference_pb2.SamplingParams(n=2), request_id="r", resumable=True
    )
    first = asyncio.ensure_future(anext(stream))
    one = await asyncio.to_thread(worker.wait_for_request, 1)
    two = await asyncio.to_thread(worker.wait_for_request, 2)
    worker.say(one, "a", 0)
    read = [await first]
    await stream.aclose()
    worker.say(two, "b", 0, ends=True)
    worker.say(one, "c", 1, ends=True)
    read += await rest(patient.client, 1)
    assert {part.choice: part.text for part in read if part.HasField("finished")} == {
        1: "b",
        0: "c",
    }
    assert text_of([part for part in read if part.choice == 0]) == "ac"


async def test_two_streams_of_a_request_both_get_everything(
    patient: Stack, worker: ScriptedWorker
) -> None:
    request, _ = await begin(patient.client, worker)
    both = [asyncio.create_task(rest(patient.client, sequence)) for sequence in (0, 2)]
    worker.say(request, "d", 3, ends=True)
    assert [text_of(await one) for one in both] == ["abcd", "cd"]


async def test_messages_that_are_no_longer_kept_are_refused(
    model_dir: Path, worker: ScriptedWorker
) -> None:
    config = RouterConfig(resume_grace_s=600.0, resume_buffer_messages=2)
    async with serving(model_dir, worker, config=config) as stack:
        await begin(stack.client, worker, "abcde")
        with pytest.raises(InvalidRequestError, match="before 3 are no longer") as caught:
            await rest(stack.client, 2)
        assert (caught.value.reason, caught.value.field) == (Reason.NOT_RESUMABLE, "resume_from")
        assert (await anext(stack.client.resume("r", 3))).text == "d"


async def test_what_was_not_made_resumable_is_not(patient: Stack, worker: ScriptedWorker) -> None:
    stream = patient.client.stream("x", request_id="r")
    first = asyncio.ensure_future(anext(stream))
    request = await asyncio.to_thread(worker.wait_for_request)
    with pytest.raises(NotFoundError) as caught:
        await rest(patient.client, 0)
    assert caught.value.reason is Reason.REQUEST_NOT_FOUND
    worker.say(request, "a", 0, ends=True)
    await first
    assert patient.router._resumables.num_held == 0


async def test_only_the_id_goes_with_resume_from(patient: Stack) -> None:
    request = inference_pb2.GenerateRequest(request_id="r", resume_from=0, text="x")
    with pytest.raises(InvalidRequestError, match="only request_id") as caught:
        await anext(patient.client.send(request))
    assert caught.value.field == "resume_from"


async def test_an_id_that_runs_is_refused_and_one_that_ended_begins_anew(
    patient: Stack, worker: ScriptedWorker
) -> None:
    request, _ = await begin(patient.client, worker)
    for resumable in (True, False):
        again = patient.client.stream("y", request_id="r", resumable=resumable)
        with pytest.raises(DuplicateRequestError):
            await anext(again)
    assert (await patient.client.status()).router.totals.rejected == 2
    worker.say(request, "d", 3, ends=True)
    assert text_of(await rest(patient.client, 0)) == "abcd"
    await patient.until_idle()
    stream = patient.client.stream("y", request_id="r", resumable=True)
    first = asyncio.ensure_future(anext(stream))
    worker.say(await asyncio.to_thread(worker.wait_for_request, 2), "new", ends=True)
    await first
    assert text_of(await rest(patient.client, 0)) == "new"


async def test_the_very_same_call_again_reads_the_running_request_from_its_beginning(
    patient: Stack, worker: ScriptedWorker
) -> None:
    """gRPC sends the call again if the connection breaks before the first message."""
    request, _ = await begin(patient.client, worker)
    again = patient.client.stream("x", request_id="r", resumable=True)
    assert [(await anext(again)).text for _ in range(3)] == ["a", "b", "c"]
    worker.say(request, "d", 3, ends=True)
    assert text_of([part async for part in again]) == "d"
    totals = await patient.until_idle()
    assert (totals.accepted, totals.rejected, len(worker.requests)) == (1, 0, 1)


async def test_60_clients_that_lose_and_resume_at_random_get_every_letter_once(
    model_dir: Path,
) -> None:
    text = "exactly once, and in order"

    async def one(stack: Stack, number: int) -> str:
        name, read = f"r{number}", ""
        stream = stack.client.stream(text, request_id=name, resumable=True)
        sequence = 0
        for _ in range(number % 4):
            for _ in range(1 + number % 5):
                part = await anext(stream)
                read, sequence = read + part.text, part.sequence + 1
            await stream.aclose()
            stream = stack.client.resume(name, sequence)
        return read + "".join([part.text async for part in stream])

    async with serving(model_dir, ScriptedWorker(script=echo), config=LATE) as stack:
        read = await asyncio.gather(*(one(stack, number) for number in range(60)))
        assert read == [text] * 60
        totals = await stack.until_idle()
        assert (totals.completed, totals.cancelled, totals.failed) == (60, 0, 0)


async def test_a_full_router_does_not_look_at_a_resumable_request_unless_it_is_one_that_runs(
    model_dir: Path, worker: ScriptedWorker
) -> None:
    config = RouterConfig(resume_grace_s=600.0, max_inflight_requests=1)
    bad = inference_pb2.GenerateRequest(request_id="q", resumable=True)  # has no prompt
    async with (
        serving(model_dir, worker, config=config) as stack,
        AsyncClient(stack.address, retries=False) as client,
    ):
        request, read = await begin(client, worker, "a")
        with pytest.raises(OverloadedError, match="1 requests are in flight"):
            await anext(client.send(bad))
        again = client.stream("x", request_id="r", resumable=True)
        assert [await anext(again)] == read
        await again.aclose()
        worker.say(request, "b", 1, ends=True)
