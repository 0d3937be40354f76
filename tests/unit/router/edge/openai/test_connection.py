import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from pdserve.errors import InternalError, UnauthenticatedError
from router.edge.openai.connection import ClientGoneError, EventStream, while_connected
from router.edge.openai.events import completion_failure
from tests.patience import WITHIN_S


class Source:
    """Events without end, which know whether they were closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_closed = False
        self._error = error

    async def events(self) -> AsyncGenerator[bytes]:
        try:
            yield b"first"
            while self._error is None:
                yield b"more"
                await asyncio.sleep(0)
            raise self._error
        finally:
            self.is_closed = True


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> Message:
    return {"type": "http.disconnect"}


def accept() -> None:
    """Let the caller go on."""


async def stream(source: Source, slow_client_s: float = WITHIN_S) -> EventStream:
    events = source.events()
    first = await anext(events)
    return EventStream(events, first, accept, slow_client_s, {}, completion_failure)


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    source, started = Source(), asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            started.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(WITHIN_S):
        await (await stream(source, slow_client_s=0.05))({}, never, send)
    assert started.is_set()
    assert source.is_closed


async def test_a_client_that_leaves_ends_the_stream_in_silence() -> None:
    source, sent = Source(), list[bytes]()

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async with asyncio.timeout(WITHIN_S):
        await (await stream(source))({}, gone, send)
    assert source.is_closed
    assert b"error" not in b"".join(sent)


async def test_a_fault_ends_the_stream_with_an_error_that_tells_no_more() -> None:
    source, sent = Source(ValueError("secret")), list[bytes]()

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    await (await stream(source))({}, never, send)
    text = b"".join(sent).decode()
    assert "unexpected ValueError" in text
    assert "secret" not in text
    assert text.endswith("data: [DONE]\n\n")


async def test_work_ends_when_the_client_leaves() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ClientGoneError):
        await while_connected(gone, accept, work())
    assert cancelled.is_set()


async def test_work_ends_when_its_caller_may_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.edge.openai.connection._LOOK_AGAIN_S", 0.01)

    def refuse() -> None:
        raise UnauthenticatedError("no more")

    with pytest.raises(UnauthenticatedError):
        await while_connected(never, refuse, asyncio.Event().wait())


async def test_an_error_of_the_work_is_passed_on() -> None:
    async def work() -> None:
        raise InternalError("broken")

    with pytest.raises(InternalError, match="broken"):
        await while_connected(never, accept, work())
