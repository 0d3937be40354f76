"""The router's HTTP port: /healthz (it lives), /readyz (it can serve), /metrics, the live page."""

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from router.edge.live.answers import Answer
from router.edge.ports import not_free

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PATIENCE_S = 10.0  # for a client to send its request, and to take what is sent at once
_SEND_BUFFER_BYTES = 128 * 1024  # of each connection, in the kernel
_BACKLOG = 256
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
Page = Callable[[WSGIEnvironment], Answer | None]


class _ToClient(io.BufferedIOBase):
    """Writes to a connection at once. A client that takes nothing for _PATIENCE_S is cut off."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: "ReadableBuffer") -> int:
        """Send all of the data. Raises ConnectionAbortedError."""
        try:
            self._connection.sendall(data)
        except TimeoutError as error:
            raise ConnectionAbortedError("the client takes nothing") from error
        return memoryview(data).nbytes


class _Handler(WSGIRequestHandler):
    """Answers one connection. Clients that say nothing, or do not read, are cut off."""

    timeout = _PATIENCE_S

    def setup(self) -> None:
        """Open the connection's two ends."""
        super().setup()
        self.wfile = _ToClient(self.connection)

    def handle(self) -> None:
        """Answer, unless the client goes."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every second."""


class _Server(ThreadingWSGIServer):
    request_queue_size = _BACKLOG

    def server_bind(self) -> None:
        """Bind; connections inherit the size of their buffers."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        super().server_bind()


class HttpServer:
    """Serves HTTP in a thread of its own, beside the event loop."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        """Bind at once. Raises SetupError when the port is taken."""
        self._metrics = make_wsgi_app(registry)
        self._is_ready = is_ready
        self._page: Page | None = None
        try:
            self._server = make_server(host, port, self._answer, _Server, handler_class=_Handler)
        except OSError as error:
            raise not_free(host, "http_port", port, error) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="router-http", daemon=True
        )

    def start(self, page: Page | None = None) -> None:
        """Start answering, also what `page` answers."""
        self._page = page
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, if the server was started, and free the port."""
        if self._thread.is_alive():
            # Linux wakes the thread at once; elsewhere the thread checks for an end twice a second
            with contextlib.suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)
            self._server.shutdown()  # would wait for ever for a loop that never ran
            self._thread.join(5.0)
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        headers = list(_TEXT)  # wsgiref adds Content-Length to this list
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics(environ, start)
            return body
        if path == "/healthz":
            start("200 OK", headers)
            return [b"ok\n"]
        if path == "/readyz":
            ready = self._is_ready()
            start("200 OK" if ready else "503 Service Unavailable", headers)
            return [b"ready\n" if ready else b"no decode worker is ready, or the router drains\n"]
        answer = self._page(environ) if self._page else None
        if answer is None:
            start("404 Not Found", headers)
            return [b"try /healthz, /readyz or /metrics\n"]
        start(answer.status, answer.headers())
        if environ.get("REQUEST_METHOD") == "HEAD":
            return []
        return [answer.body] if isinstance(answer.body, bytes) else answer.body
