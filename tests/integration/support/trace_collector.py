"""Collector of traces in this process: an HTTP server that reads OTLP's messages."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from common.telemetry.tracing.collector import Collector
from common.telemetry.tracing.exporter import SpanExporter
from common.telemetry.tracing.otlp import OtlpEncoder, num_rejected
from common.telemetry.tracing.tracing import Tracing
from tests.patience import WITHIN_S

Scalar = str | int | float | bool | list[str]


class Received(NamedTuple):
    """Span as it came, with its process."""

    service: str
    instance: str
    span: trace_pb2.Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def attributes(self) -> dict[str, Scalar]:
        return read_attributes(self.span.attributes)


class TraceCollector:
    """Server, and what it got."""

    def __init__(self, status: int = 200, answer: bytes = b"") -> None:
        self.status, self.answer = status, answer
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.gate = threading.Event()  # an answer waits for it
        self.gate.set()
        self._spans: list[Received] = []
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        """URL without a path."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Keep a message; runs in the server's thread."""
        with self._changed:
            self.paths.append(path)
            self.headers.append(headers)
            self._spans += _spans(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self._changed.notify_all()

    def wait(self, is_enough: Callable[[list[Received]], bool]) -> list[Received]:
        """Return all spans so far when `is_enough`; fails after WITHIN_S."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_enough(self._spans), WITHIN_S), self._spans
            return list(self._spans)

    def trace_of(self, request_id: str) -> list[Received]:
        """Return the spans of a request's trace, its root first."""
        spans = self.wait(lambda spans: bool(_roots(spans, request_id)))
        (root,) = _roots(spans, request_id)
        rest = [s for s in spans if s.span.trace_id == root.span.trace_id and s is not root]
        return [root, *rest]

    @contextmanager
    def serving(self) -> "Iterator[TraceCollector]":
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(WITHIN_S)


def tracing_to(
    endpoint: str, sample_ratio: float = 1.0, *, max_queued_spans: int = 1000, timeout_s: float = 5
) -> Tracing:
    """Return a tracing that sends each trace at once."""
    collector, encoder = Collector(endpoint, {}, timeout_s), OtlpEncoder("test")
    exporter = SpanExporter(
        lambda batch: num_rejected(collector.post(encoder.encode(batch))),
        max_queued_spans,
        gather_s=0.0,
    )
    return Tracing(exporter, sample_ratio, "tiny")


def read_attributes(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, Scalar]:
    """Return attributes as a dictionary."""
    return {pair.key: _scalar(pair.value) for pair in pairs}


def _scalar(value: common_pb2.AnyValue) -> Scalar:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [item.string_value for item in value.array_value.values]
    found: Scalar = getattr(value, kind or "string_value")
    return found


def _roots(spans: list[Received], request_id: str) -> list[Received]:
    return [s for s in spans if s.attributes.get("pdserve.request_id") == request_id]


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[Received]:
    for resource_spans in request.resource_spans:
        resource = read_attributes(resource_spans.resource.attributes)
        names = str(resource["service.name"]), str(resource.get("service.instance.id", ""))
        for scope_spans in resource_spans.scope_spans:
            yield from (Received(*names, span) for span in scope_spans.spans)


def _handler(collector: TraceCollector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(self.path, dict(self.headers), body)
            collector.gate.wait(WITHIN_S)
            self.send_response(collector.status)
            self.send_header("Content-Length", str(len(collector.answer)))
            self.end_headers()
            self.wfile.write(collector.answer)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
