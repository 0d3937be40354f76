"""Posting to a collector that answers well, badly, slowly, or not at all."""

import socket
import threading

import pytest

import pdserve
from common.telemetry.tracing.collector import Collector
from common.telemetry.tracing.exporter import ExportError
from tests.integration.support.trace_collector import TraceCollector
from tests.patience import WITHIN_S


@pytest.mark.parametrize(
    ("path", "posted"),
    [
        ("", "/v1/traces"),
        ("/", "/v1/traces"),
        ("/otlp", "/otlp/v1/traces"),
        ("/otlp/v1/traces", "/otlp/v1/traces"),
    ],
)
def test_it_posts_to_the_path_of_traces(path: str, posted: str) -> None:
    with TraceCollector(answer=b"ok").serving() as collector:
        sender = Collector(collector.endpoint + path, {"authorization": "Bearer x"})
        assert sender.post(b"") == b"ok"
        assert collector.paths == [posted]
        (headers,) = collector.headers
    assert headers["authorization"] == "Bearer x"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["User-Agent"] == f"pdserve/{pdserve.__version__}"


@pytest.mark.parametrize("status", [301, 404, 503])
def test_any_other_status_is_a_failure(status: int) -> None:
    with (
        TraceCollector(status).serving() as collector,
        pytest.raises(ExportError, match=rf"127.0.0.1/v1/traces answers {status}"),
    ):
        Collector(collector.endpoint, {}).post(b"")


def test_nobody_there_is_a_failure_in_one_line() -> None:
    with pytest.raises(ExportError, match=r"^127.0.0.1: ConnectionRefusedError: .+$"):
        Collector("http://127.0.0.1:1", {}).post(b"")


def test_a_collector_that_only_listens_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ExportError):
            Collector(endpoint, {}, timeout_s=0.05).post(b"")


def test_an_answer_that_comes_byte_by_byte_is_cut_in_time() -> None:
    """The socket's own limit starts anew with each byte."""
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        taken, _ = server.accept()
        with taken:
            taken.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not ended.wait(0.001):
                try:
                    taken.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,))
        dripping.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ExportError, match=r"no answer in 0.1 s|timed out"):
            Collector(endpoint, {}, timeout_s=0.1).post(b"")
        ended.set()
        dripping.join(WITHIN_S)


def test_what_speaks_no_http_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            taken, _ = server.accept()
            with taken:
                taken.recv(1)
                taken.sendall(b"SSH-2.0-x\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ExportError):
            Collector(endpoint, {}).post(b"")
        answering.join(WITHIN_S)
