"""HTTP connection to a collector of traces: one POST of OTLP's binary form for each batch."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import pdserve
from common.telemetry.tracing.exporter import ExportError

_PATH = "/v1/traces"
_MAX_ANSWER_BYTES = 65_536
_TIMEOUT_S = 5.0
_BROKEN = (OSError, http.client.HTTPException, ValueError)  # ValueError: cut amid a TLS record


class Collector:
    """Collector at an address. Holds no connection between two batches."""

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], timeout_s: float = _TIMEOUT_S
    ) -> None:
        """Take a checked `telemetry.otlp_endpoint`; `/v1/traces` is added unless it ends so."""
        url = urlsplit(endpoint)
        self._is_https = url.scheme == "https"
        self._host, self._port = url.hostname or "", url.port
        base = url.path.rstrip("/")
        self._path = base if base.endswith(_PATH) else base + _PATH
        self._timeout_s = timeout_s
        self._headers = {
            "User-Agent": f"pdserve/{pdserve.__version__}",
            **headers,
            "Content-Type": "application/x-protobuf",
        }

    def post(self, body: bytes) -> bytes:
        """Send a batch and return the answer. Raises ExportError, also after `timeout_s`."""
        connection = self._connection()
        # a socket's own limit holds for each read, and an answer may come byte by byte
        is_late = threading.Event()
        cut = threading.Timer(self._timeout_s, _cut, (connection, is_late))
        cut.daemon = True
        cut.start()
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER_BYTES)
        except _BROKEN as error:
            why = self._late if is_late.is_set() else _describe(error)
            raise ExportError(f"{self._host}: {why}") from error
        finally:
            cut.cancel()
            connection.close()
        if is_late.is_set():
            raise ExportError(f"{self._host}: {self._late}")
        if not 200 <= response.status < 300:
            raise ExportError(f"{self._host}{self._path} answers {response.status}")
        return answer

    @property
    def _late(self) -> str:
        return f"no answer in {self._timeout_s} s"

    def _connection(self) -> http.client.HTTPConnection:
        if not self._is_https:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=context
        )


def _cut(connection: http.client.HTTPConnection, is_late: threading.Event) -> None:
    """End what a connection waits for; to its reader that looks like the end of the answer."""
    is_late.set()
    with contextlib.suppress(*_BROKEN):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)


def _describe(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
