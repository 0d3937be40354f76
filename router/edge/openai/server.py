"""The HTTP server of OpenAI's API: uvicorn on the router's event loop."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from pdserve.errors import SetupError
from router.edge.ports import bind, not_free

_POLL_S = 0.01
_KEEP_ALIVE_S = 75
_MAX_BACKLOG = 2048
_ENDED_WITHIN_S = 5.0


class _Server(uvicorn.Server):
    """A server that leaves signals to the process that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class OpenAiServer:
    """Owns the port and the task that serves it."""

    def __init__(
        self, app: ASGIApp, bound: socket.socket, certificate: ssl.SSLContext | None
    ) -> None:
        """Take a socket of `listen`, and close it in the end."""
        self._socket = bound
        self.port: int = self._socket.getsockname()[1]
        make = None if certificate is None else (lambda config, default: certificate)
        self._config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # what is worth a line is logged by the pages
            proxy_headers=False,
            access_log=False,
            lifespan="off",
            ws="none",
            http="httptools",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            ssl_context_factory=make,
        )
        self._server = _Server(self._config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve, from now on."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise SetupError("the OpenAI API did not start", "look into the log")
            await asyncio.sleep(_POLL_S)

    async def stop(self, grace_s: float) -> None:
        """Take no more requests, and cut off those that run still after a while."""
        self._config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=grace_s + _ENDED_WITHIN_S)
            self._task.cancel()
        self._socket.close()


def listen(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """Return a socket that listens, as `bind` makes it. Raises SetupError when the port is taken."""
    bound = bind(host, "openai_port", port, is_shared=is_shared)
    try:
        bound.listen(_MAX_BACKLOG)
    except OSError as error:  # another one listened since
        bound.close()
        raise not_free(host, "openai_port", port, error) from error
    return bound
