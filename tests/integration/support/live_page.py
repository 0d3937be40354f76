"""Requests to the live page's paths, as a browser or a tool sends them."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.support.router_stack import HOST
from tests.patience import WITHIN_S


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
