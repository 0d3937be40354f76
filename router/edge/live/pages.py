"""The live page at the HTTP port: its files, a stream of frames, one frame, and one request.

| path | answer |
|---|---|
| `/`, `/live/live.css`, `/live/live.js`, `/live/icon.svg` | the page; no data, so open to all |
| `/live/events` | frames as server-sent events |
| `/live/state` | one frame as JSON |
| `/live/request?id=ID` | what `Explain` says of a request, as JSON |

HTTP threads call `answer`. What the router's event loop owns is read there.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs
from wsgiref.types import WSGIEnvironment

from google.protobuf.json_format import MessageToJson

from pdserve.errors import (
    InternalError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    Reason,
    RequestError,
    UnauthenticatedError,
)
from router.access.tenant import Tenant
from router.edge.explain import Explainer
from router.edge.live.answers import JSON, Answer, problem
from router.edge.live.assets import read_assets
from router.edge.live.feed import Feed, Viewer
from router.edge.live.gate import Gate
from router.edge.live.sampler import frames
from router.edge.live.sources import Sources

_WITHIN_S = 5.0  # for the event loop to answer, and for the next frame
_RETRY_S = 5
_EVENTS = "text/event-stream; charset=utf-8"
_STATUSES: dict[type[RequestError], str] = {
    UnauthenticatedError: "401 Unauthorized",
    PermissionDeniedError: "403 Forbidden",
    NotFoundError: "404 Not Found",
}
T = TypeVar("T")


class LivePages:
    """Answers HTTP requests for the page and its data."""

    def __init__(self, sources: Sources, explainer: Explainer, gate: Gate) -> None:
        """Serve from the running event loop."""
        self._sources = sources
        self._explainer = explainer
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(self._loop, partial(frames, sources))
        self._assets = read_assets()
        self._data = {
            "/live/events": self._events,
            "/live/state": self._state,
            "/live/request": self._request,
        }

    def answer(self, environ: WSGIEnvironment) -> Answer | None:
        """Return the answer to a request, None for a path that is not the page's."""
        path = environ.get("PATH_INFO", "")
        if path not in self._assets and path not in self._data:
            return None
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            allowed = ("Allow", "GET, HEAD")
            return problem("405 Method Not Allowed", Reason.INVALID_FIELD, "GET alone", allowed)
        if path in self._assets:
            return self._assets[path]
        try:
            return self._data[path](environ, self._gate.admit(environ))
        except RequestError as error:
            return _refusal(error)

    async def stop(self) -> None:
        """End all streams; call it on the loop."""
        await self._feed.stop()

    def _events(self, environ: WSGIEnvironment, _: Tenant) -> Answer:
        if environ.get("REQUEST_METHOD") == "HEAD":
            return Answer("200 OK", _EVENTS, b"")
        viewer = self._feed.open()
        if viewer is None:
            raise OverloadedError(
                f"{self._feed.max_viewers} pages are open, and a router serves no more",
                retry_after_s=_RETRY_S,
            )
        return Answer("200 OK", _EVENTS, _Stream(viewer, partial(self._gate.admit, environ)))

    def _state(self, environ: WSGIEnvironment, _: Tenant) -> Answer:
        return Answer("200 OK", JSON, self._on_loop(_first_frame(self._sources)) + b"\n")

    def _request(self, environ: WSGIEnvironment, tenant: Tenant) -> Answer:
        request_id = parse_qs(environ.get("QUERY_STRING", "")).get("id", [""])[0]
        explained = self._on_loop(self._explainer.explain(tenant, request_id))
        body = MessageToJson(
            explained, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return Answer("200 OK", JSON, body.encode() + b"\n")

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the router's event loop, and wait for it. Raises RequestError."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(_WITHIN_S)
        except TimeoutError:
            running.cancel()
            raise InternalError(f"no answer in {_WITHIN_S:g} s") from None


def _refusal(error: RequestError) -> Answer:
    status = _STATUSES.get(type(error), "503 Service Unavailable")
    is_later = isinstance(error, OverloadedError)
    return problem(
        status, error.reason, error.message, *([("Retry-After", str(_RETRY_S))] if is_later else [])
    )


async def _first_frame(sources: Sources) -> bytes:
    async with aclosing(frames(sources)) as found:
        return await anext(found)


class _Stream:
    """Frames as server-sent events, until the viewer leaves or may not look any more."""

    def __init__(self, viewer: Viewer, check: "partial[Tenant]") -> None:
        self._viewer = viewer
        self._check = check

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield b": frames follow\n\n"  # so that the status is sent at once
            while (frame := self._viewer.next(_WITHIN_S)) is not None:
                self._check()
                yield b"data: " + frame + b"\n\n"
        except RequestError:
            return  # the token was taken away
        finally:
            self._viewer.close()

    def close(self) -> None:
        """Give the viewer's place back, also if nothing was read; WSGI servers call it."""
        self._viewer.close()
