"""Client on a connection that passes nothing on any more: its keepalive ends the stream."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from common.rpc.channel import (
    CLIENT_OPTIONS,
    SERVER_OPTIONS,
    WORKER_SERVER_OPTIONS,
)
from pdserve.connection import options
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.router_stack import Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.integration.support.tcp_relay import relaying
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

Options = dict[str, str | int]
PING_TIMEOUT = "grpc.http2.ping_timeout_ms"
# the client's, but sooner
HASTY: Options = dict(options(retries=True)) | {
    "grpc.keepalive_time_ms": 1000,
    "grpc.keepalive_timeout_ms": 1000,
    PING_TIMEOUT: 1000,
}
NO_PING_TIMEOUT: Options = {name: value for name, value in HASTY.items() if name != PING_TIMEOUT}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(write_folder(tmp_path), ScriptedWorker(script=_begin)) as stack:
        yield stack


def _begin(worker: ScriptedWorker, request: object) -> None:
    worker.say(worker.requests[-1], "x")


async def read_to_the_end(address: str, chosen: Options, frozen: asyncio.Event) -> str:
    """Read a stream; wait behind its first message until the connection is frozen. Return its end."""
    async with grpc.aio.insecure_channel(address, options=[*chosen.items()]) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(
            inference_pb2.GenerateRequest(text="x")
        )
        await call.read()
        frozen.set()
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return (await call.code()).name


async def test_a_client_s_keepalive_finds_a_frozen_connection_out(stack: Stack) -> None:
    """The same keepalive without a time-out of pings still waits when the client's has ended."""
    async with relaying(stack.address) as (address, relay):
        events = [asyncio.Event(), asyncio.Event()]
        tasks = [
            asyncio.create_task(read_to_the_end(address, chosen, event))
            for chosen, event in zip((HASTY, NO_PING_TIMEOUT), events, strict=True)
        ]
        for event in events:
            await event.wait()
        relay.freeze()
        done, waiting = await asyncio.wait(
            tasks, timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert done == {tasks[0]}
        assert tasks[0].result() == "UNAVAILABLE"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize(
    "chosen",
    [options(retries=False), CLIENT_OPTIONS, SERVER_OPTIONS, WORKER_SERVER_OPTIONS],
    ids=["client", "router", "server", "worker"],
)
def test_pings_time_out_with_the_keepalive_everywhere(chosen: list[tuple[str, str | int]]) -> None:
    found = dict(chosen)
    assert found[PING_TIMEOUT] == found["grpc.keepalive_timeout_ms"]


@pytest.mark.parametrize("chosen", [options(retries=False), CLIENT_OPTIONS], ids=["client", "link"])
def test_pings_go_on_while_there_is_nothing_to_send(chosen: list[tuple[str, str | int]]) -> None:
    assert dict(chosen)["grpc.http2.max_pings_without_data"] == 0  # no limit
