"""OTLP messages of traces. The only module that imports `opentelemetry` (the extra `otel`)."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

import pdserve
from common.telemetry.tracing.span import (
    Attributes,
    AttributeValue,
    EndedTrace,
    Service,
    Span,
    Trace,
)

_SAMPLED = 1
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # of a span's parent
_SCOPE = common_pb2.InstrumentationScope(name="pdserve", version=pdserve.__version__)


class OtlpEncoder:
    """Makes messages of one router's traces."""

    def __init__(self, namespace: str, new_span_id: Callable[[], int] | None = None) -> None:
        """Take the deployment's name."""
        self._namespace = namespace
        self._new_span_id = new_span_id or _random_span_id

    def encode(self, traces: Sequence[EndedTrace]) -> bytes:
        """Return the request that exports these traces, with a resource for each process."""
        found = [pair for ended in traces for pair in self._spans(ended)]
        found.sort(key=itemgetter(0))
        request = trace_service_pb2.ExportTraceServiceRequest(
            resource_spans=[
                trace_pb2.ResourceSpans(
                    resource=self._resource(service),
                    scope_spans=[
                        trace_pb2.ScopeSpans(scope=_SCOPE, spans=[span for _, span in pairs])
                    ],
                )
                for service, pairs in groupby(found, itemgetter(0))
            ]
        )
        return request.SerializeToString()

    def _resource(self, service: Service) -> resource_pb2.Resource:
        attributes = {
            "service.name": f"pdserve-{service.role}",
            "service.namespace": self._namespace,
            "service.version": pdserve.__version__,
        }
        if service.instance:
            attributes["service.instance.id"] = service.instance
        return resource_pb2.Resource(attributes=_key_values(attributes))

    def _spans(self, ended: EndedTrace) -> Iterator[tuple[Service, trace_pb2.Span]]:
        yield from self._family(ended, ended.root, ended.trace.parent_id, is_remote=True)

    def _family(
        self, ended: EndedTrace, span: Span, parent_id: int, *, is_remote: bool = False
    ) -> Iterator[tuple[Service, trace_pb2.Span]]:
        """Yield a span and those inside."""
        span_id = self._new_span_id()
        message = _to_message(ended.trace, span, ended.epoch_s)
        message.span_id = span_id.to_bytes(8)
        if parent_id:
            message.parent_span_id = parent_id.to_bytes(8)
        message.flags = _SAMPLED | _HAS_IS_REMOTE | (_IS_REMOTE if is_remote and parent_id else 0)
        yield span.service, message
        for child in span.children:
            yield from self._family(ended, child, span_id)


def num_rejected(answer: bytes) -> int:
    """Return the number of spans that a collector refused, by its answer."""
    try:
        response = trace_service_pb2.ExportTraceServiceResponse.FromString(answer)
    except DecodeError:  # some answer with JSON or with nothing of ours; the status counts
        return 0
    return max(response.partial_success.rejected_spans, 0)


def _to_message(trace: Trace, span: Span, epoch_s: float) -> trace_pb2.Span:
    kind = trace_pb2.Span.SPAN_KIND_SERVER if span.is_server else trace_pb2.Span.SPAN_KIND_INTERNAL
    message = trace_pb2.Span(
        trace_id=trace.trace_id.to_bytes(16),
        trace_state=trace.state,
        name=span.name,
        kind=kind,
        start_time_unix_nano=_unix_nano(epoch_s, span.start_s),
        end_time_unix_nano=_unix_nano(epoch_s, max(span.end_s, span.start_s)),
        attributes=_key_values(span.attributes),
        events=[
            trace_pb2.Span.Event(name=event.name, time_unix_nano=_unix_nano(epoch_s, event.at_s))
            for event in span.events
        ],
    )
    if span.error:
        message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
        message.status.message = span.error
    return message


def _key_values(attributes: Attributes) -> list[common_pb2.KeyValue]:
    return [
        common_pb2.KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items()
    ]


def _any_value(value: AttributeValue) -> common_pb2.AnyValue:
    if isinstance(value, str):
        # half a surrogate pair, which JSON can bring, has no UTF-8
        return common_pb2.AnyValue(string_value=value.encode("utf-8", "replace").decode())
    if isinstance(value, bool):
        return common_pb2.AnyValue(bool_value=value)
    if isinstance(value, int):
        return common_pb2.AnyValue(int_value=value)
    if isinstance(value, float):
        return common_pb2.AnyValue(double_value=value)
    return common_pb2.AnyValue(
        array_value=common_pb2.ArrayValue(values=[_any_value(item) for item in value])
    )


def _unix_nano(epoch_s: float, at_s: float) -> int:
    return round((epoch_s + at_s) * 1e9)


def _random_span_id() -> int:
    return random.getrandbits(64) or 1
