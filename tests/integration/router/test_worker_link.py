"""A link to a worker over a network that breaks: cut, frozen, one-way, healed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from common.rpc.channel import MAX_MESSAGE_BYTES
from common.rpc.worker_host import WorkerHost
from pdserve.errors import Reason
from router.workers.work_stream import WorkStream
from tests.integration.support.linked_worker import (
    Rig,
    direct,
    failure_of,
    linked,
    request,
    text_of,
    until,
)
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Yield a rig whose worker keeps requests for ever."""
    async with linked() as rig:
        yield rig


async def test_a_cut_in_the_middle_of_eight_streams_loses_and_doubles_nothing(rig: Rig) -> None:
    streams = [rig.submit(f"r{number}") for number in range(8)]
    await rig.arrival(8)
    for work in rig.worker.requests:
        rig.worker.say(work, "one ")
    assert (await streams[0].next()).token_ids == tuple(b"one ")
    rig.relay.freeze()  # so that it stays cut for a while
    await rig.cut()
    for work in rig.worker.requests:
        rig.worker.say(work, "two ", 4)
    rig.relay.heal()
    await rig.connected()
    for work in rig.worker.requests:
        rig.worker.say(work, "three", 8, ends=True)
    assert (await streams[0].next()).index == 4
    assert (await streams[0].next()).index == 8
    assert [await text_of(stream) for stream in streams[1:]] == ["one two three"] * 7
    assert len(rig.worker.requests) == 8
    assert rig.worker.cancelled == []
    assert rig.link.num_live == 0


async def test_an_end_that_comes_while_the_connection_is_cut_is_not_lost(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    rig.relay.freeze()
    await rig.cut()
    rig.worker.say(rig.worker.requests[0], "all", ends=True)
    rig.relay.heal()
    assert await text_of(stream) == "all"


async def test_a_submit_that_a_cut_swallowed_is_sent_again(rig: Rig) -> None:
    rig.relay.freeze(to_client=False)
    stream = rig.submit("r")
    await until(lambda: rig.relay.num_held > 0)
    rig.relay.lose()
    rig.relay.heal()
    await rig.arrival()
    rig.worker.say(rig.worker.requests[0], "x", ends=True)
    assert await text_of(stream) == "x"
    assert len(rig.worker.requests) == 1


async def test_a_cut_before_token_0_runs_nothing_twice(rig: Rig) -> None:
    rig.relay.freeze(to_server=False)
    stream = rig.submit("r")
    await rig.arrival()
    rig.worker.say(rig.worker.requests[0], "x")
    await until(lambda: rig.relay.num_held > 0)
    rig.relay.lose()
    rig.relay.heal()
    rig.worker.say(rig.worker.requests[0], "y", 1, ends=True)
    assert await text_of(stream) == "xy"
    assert len(rig.worker.requests) == 1


async def test_two_cuts_are_as_harmless_as_one(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    (work,) = rig.worker.requests
    for index in range(2):
        rig.worker.say(work, "xy"[index], index)
        await rig.cut()
        await rig.connected()
    await rig.cut()
    rig.worker.say(work, "z", 2, ends=True)
    assert await text_of(stream) == "xyz"


async def test_what_is_released_while_it_is_cut_is_cancelled_afterwards(rig: Rig) -> None:
    kept, released = rig.submit("kept"), rig.submit("released")
    await rig.arrival(2)
    rig.relay.freeze()
    await rig.cut()
    released.close()
    rig.relay.heal()
    await asyncio.to_thread(rig.worker.wait, lambda worker: worker.cancelled == ["released"])
    rig.worker.say(request("kept"), "x", ends=True)
    assert await text_of(kept) == "x"


async def test_a_router_that_closes_in_order_frees_its_work_at_once(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    await rig.link.close()
    assert rig.worker.cancelled == ["r"]
    failure = await failure_of(stream)
    assert (failure.reason, failure.is_death) == (Reason.WORKER_LOST, False)


async def test_the_lease_ends_the_work_of_a_router_that_stays_away() -> None:
    async with linked(lease_s=0.1) as rig:
        stream = rig.submit("r")
        await rig.arrival()
        rig.worker.say(rig.worker.requests[0], "x")
        await stream.next()
        rig.relay.freeze()
        await rig.cut()
        await rig.idle()
        assert rig.worker.cancelled == ["r"]
        rig.relay.heal()
        failure = await failure_of(stream)
        assert (failure.reason, failure.is_death) == (Reason.WORKER_LOST, False)


async def test_a_network_that_answers_nothing_is_given_up_which_is_no_death(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    rig.relay.freeze()
    await rig.cut()
    failure = await failure_of(stream)
    assert (failure.reason, failure.is_death) == (Reason.WORKER_LOST, False)
    assert rig.link.is_silent
    rig.worker.say(rig.worker.requests[0], "late")
    rig.relay.heal()
    await rig.idle()  # by the next stream, long before the lease
    assert rig.worker.cancelled == ["r"]


async def test_a_worker_that_is_not_heard_is_cut_and_its_late_outputs_go_nowhere(rig: Rig) -> None:
    """Only what the worker sends is held up; the router's messages get there."""
    stream = rig.submit("r")
    await rig.arrival()
    rig.relay.freeze(to_server=False)
    rig.worker.say(rig.worker.requests[0], "late")
    assert (await failure_of(stream)).reason is Reason.WORKER_LOST
    assert not rig.link.is_connected
    rig.relay.heal()
    await rig.connected()
    await rig.idle()
    again = rig.submit("r~2")
    await rig.arrival(2)
    rig.worker.say(rig.worker.requests[1], "x", ends=True)
    assert await text_of(again) == "x"
    assert stream._outputs._outputs.empty()


@pytest.mark.slow
async def test_a_router_that_is_not_heard_gives_the_worker_up_too(rig: Rig) -> None:
    """Only what the router sends is held up: the worker's pings find it out, and it closes."""
    stream = rig.submit("r")
    await rig.arrival()
    rig.relay.freeze(to_client=False)
    assert (await failure_of(stream)).reason is Reason.WORKER_LOST


async def test_a_refused_connection_is_a_death_at_once(rig: Rig) -> None:
    async with direct(rig) as link:
        stream = WorkStream("r", 100)
        link.submit(request("r"), stream)
        await asyncio.to_thread(rig.host.stop, WITHIN_S)
        failure = await failure_of(stream)
        assert (failure.reason, failure.is_death) == (Reason.WORKER_LOST, True)


async def test_a_message_that_is_too_large_ends_the_streams_and_comes_once(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    rig.worker.say(rig.worker.requests[0], "x" * (MAX_MESSAGE_BYTES + 1))
    failure = await failure_of(stream)
    assert (failure.reason, failure.is_death) == (Reason.WORKER_LOST, False)
    await rig.idle()
    await rig.connected()


async def test_another_incarnation_is_a_death_and_gets_none_of_the_old_work(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    successor = ScriptedWorker()
    successor.info = replace(successor.info, incarnation="second", pid=4712)
    host = WorkerHost(successor, HOST)
    rig.relay.redirect(await asyncio.to_thread(host.start))
    rig.relay.lose()
    failure = await failure_of(stream)
    assert (failure.reason, failure.is_death) == (Reason.WORKER_LOST, True)
    await rig.connected()
    again = rig.submit("r~2")
    await asyncio.to_thread(successor.wait_for_request)
    successor.say(successor.requests[0], "x", ends=True)
    assert await text_of(again) == "x"
    assert [work.request_id for work in successor.requests] == ["r~2"]
    await asyncio.to_thread(host.stop, WITHIN_S)


async def test_another_router_s_connection_takes_nothing(rig: Rig) -> None:
    stream = rig.submit("r")
    await rig.arrival()
    async with direct(rig, "another"):
        rig.relay.freeze()
        await rig.cut()
        rig.worker.say(rig.worker.requests[0], "x", ends=True)
        rig.relay.heal()
        assert await text_of(stream) == "x"
    assert rig.worker.cancelled == []


async def test_a_worker_that_drains_does_so_again_after_a_cut(rig: Rig) -> None:
    async with direct(rig, "another") as other:
        rig.link.set_draining(True)
        await until(lambda: other.load.is_draining)
        rig.relay.freeze()
        await rig.cut()
        await until(lambda: not other.load.is_draining)  # forgotten with the connection
        rig.relay.heal()
        await until(lambda: other.load.is_draining)


async def test_a_loss_and_a_return_are_one_line_each_with_the_worker_s_name(rig: Rig) -> None:
    with capture_logs() as lines:
        rig.relay.freeze()
        await rig.cut()
        await until(lambda: rig.relay.num_accepted >= 3)  # tries in vain
        assert [line["event"] for line in lines] == ["worker_lost"]
        rig.relay.heal()
        await rig.connected()
    assert [(line["event"], line["worker"]) for line in lines] == [
        ("worker_lost", "decode-0"),
        ("worker_back", "decode-0"),
    ]
