"""The router's HTTP port: /healthz (it lives), /readyz (it can serve), /metrics (Prometheus)."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from pdserve.errors import SetupError

_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def check_port(host: str, key: str, port: int, *, is_shared: bool = False) -> None:
    """Raise SetupError, naming the setting, when the port cannot be bound now; 0 is always free.

    With `is_shared`, others may have it that share it too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # as servers do: a port in TIME_WAIT is free, one with a listener is not
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SetupError(
                f"{key} {port} on {host} is not free: {error.strerror}", "choose another"
            ) from error


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every second."""


class HttpServer:
    """Serves HTTP in a thread of its own, beside the event loop."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        """Bind at once. Raises SetupError when the port is taken."""
        self._metrics = make_wsgi_app(registry)
        self._is_ready = is_ready
        try:
            self._server = make_server(
                host, port, self._answer, ThreadingWSGIServer, handler_class=_QuietHandler
            )
        except OSError as error:
            raise SetupError(
                f"http_port {port} on {host} is not free: {error.strerror}", "choose another"
            ) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="router-http", daemon=True
        )

    def start(self) -> None:
        """Start answering."""
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
        start("404 Not Found", headers)
        return [b"try /healthz, /readyz or /metrics\n"]
