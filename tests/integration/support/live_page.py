"""Requests to the live page's paths, as a browser or a tool sends them, and what comes of them."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from router.app import Router
from tests.integration.support.router_stack import HOST, Stack
from tests.patience import WITHIN_S

FILES = ["/", "/live/live.css", "/live/live.js", "/live/icon.svg"]
DATA = ["/live/events", "/live/state", "/live/request?id=r"]


@contextmanager
def asked(
    port: int, path: str, token: str = "", host: str = HOST
) -> Iterator[http.client.HTTPResponse]:
    """Yield the answer to a GET, of which the body is not read yet."""
    connection = http.client.HTTPConnection(HOST, port, timeout=WITHIN_S)
    headers = {"Host": host, **({"Authorization": f"Bearer {token}"} if token else {})}
    connection.request("GET", path, headers=headers)
    try:
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def get(port: int, path: str, token: str = "", host: str = HOST) -> tuple[int, Any]:
    """Return the status of a GET, and its body as JSON."""
    with asked(port, path, token, host) as response:
        return response.status, json.loads(response.read())


def frames_of(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the frames of an event stream."""
    while line := response.readline():
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


async def in_thread(stack: Stack, path: str, **options: str) -> tuple[int, Any]:
    """Run `get` while the router goes on."""
    return await asyncio.to_thread(get, stack.router.http_port, path, **options)


async def until_unwatched(router: Router) -> None:
    """Return when nothing runs for the page any more."""
    async with asyncio.timeout(WITHIN_S):
        while is_watched(router):
            await asyncio.sleep(0.005)


def status_of(router: Router, path: str) -> int:
    """Return the status of a GET."""
    with asked(router.http_port, path) as response:
        return response.status


def is_watched(router: Router) -> bool:
    """Return True while frames are made."""
    assert router._live_pages is not None
    return router._live_pages._feed._task is not None
