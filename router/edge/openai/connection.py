"""Work for a client that may leave, lose its key, or read too slowly while it runs."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Message, Receive, Scope, Send

from common.telemetry.logs import get_logger
from pdserve.errors import InternalError, Reason, RequestError
from router.edge.openai.answers import Json
from router.edge.openai.errors import to_answer
from router.edge.slow_client import Delivery

_LOOK_AGAIN_S = 1.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of the nginx family would hold events back
]
_log = get_logger()
_T = TypeVar("_T")
# Raises RequestError when the caller may not go on.
Check = Callable[[], None]


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads an answer."""


async def while_connected(receive: Receive, check: Check, work: Coroutine[Any, Any, _T]) -> _T:
    """Run work to its end, or cancel it when the client leaves or `check` refuses it.

    Raises ClientGoneError, what `check` raises, and what the work raises.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        while not task.done():
            both = (task, gone)
            await asyncio.wait(both, timeout=_LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not task.done():
                raise ClientGoneError
            check()
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.wait((task, gone))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """An answer as server-sent events."""

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        first: bytes,
        check: Check,
        slow_client_s: float,
        headers: dict[str, str],
        to_failure: Callable[[Json], bytes],
    ) -> None:
        """`first` is the first event, which was awaited so that refusals have their status.

        `to_failure` makes the last event of a stream that fails.
        """
        self._events = events
        self._first = first
        self._check = check
        self._delivery = Delivery(slow_client_s)
        self._headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        self._to_failure = to_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, as ASGI wants it."""
        headers = [*_HEADERS, *self._headers]
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                await while_connected(receive, self._check, self._send_all(send))
                await self._write(send, b"", more=False)
            except ClientGoneError:
                return
            except Exception as error:
                await self._fail(send, error)

    async def _send_all(self, send: Send) -> None:
        await self._write(send, self._first)
        async for event in self._events:
            await self._write(send, event)

    async def _write(self, send: Send, body: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        await self._delivery.deliver(send(message))

    async def _fail(self, send: Send, error: Exception) -> None:
        """Say in the stream how it failed; its status is sent already."""
        if not isinstance(error, RequestError):
            _log.error("openai_stream_failed", exc_info=error)
            error = InternalError(f"unexpected {type(error).__name__}")
        elif error.reason is Reason.SLOW_CONSUMER:
            return  # there is nobody who would read it
        await self._write(send, self._to_failure(to_answer(error).body), more=False)
