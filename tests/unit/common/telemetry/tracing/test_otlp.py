"""OTLP's messages, read with its own classes."""

from itertools import count

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

import pdserve
from common.telemetry.tracing.caller import Caller
from common.telemetry.tracing.otlp import OtlpEncoder, num_rejected
from common.telemetry.tracing.request_span import Lifetime, RequestIdentity, request_span
from common.telemetry.tracing.span import EndedTrace, Trace
from tests.integration.support.trace_collector import read_attributes
from tests.unit.common.telemetry.tracing.ended import ended_trace

Request = trace_service_pb2.ExportTraceServiceRequest


def encoded(*traces: EndedTrace) -> trace_service_pb2.ExportTraceServiceRequest:
    numbers = count(100)
    return Request.FromString(OtlpEncoder("ns", lambda: next(numbers)).encode(traces))


def test_each_process_is_a_resource_with_its_spans() -> None:
    prefill, router = encoded(ended_trace(1), ended_trace(2)).resource_spans
    assert read_attributes(router.resource.attributes) == {
        "service.name": "pdserve-router",
        "service.namespace": "ns",
        "service.version": pdserve.__version__,
    }
    assert read_attributes(prefill.resource.attributes) == {
        "service.name": "pdserve-prefill",
        "service.namespace": "ns",
        "service.version": pdserve.__version__,
        "service.instance.id": "prefill-0",
    }
    (scope,) = prefill.scope_spans
    assert (scope.scope.name, len(scope.spans)) == ("pdserve", 4)


def test_a_span_has_its_ids_times_and_status() -> None:
    prefill, router = encoded(ended_trace()).resource_spans
    (root,), children = router.scope_spans[0].spans, prefill.scope_spans[0].spans
    assert (root.trace_id, root.span_id) == ((1).to_bytes(16), (100).to_bytes(8))
    assert (root.parent_span_id, root.trace_state) == ((7).to_bytes(8), "a=1")
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1001 * 10**9, 1004 * 10**9)
    assert root.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert (root.status.code, root.status.message) == (
        trace_pb2.Status.STATUS_CODE_ERROR,
        "CANCELLED",
    )
    assert read_attributes(root.attributes)["gen_ai.response.finish_reasons"] == ["stop", "length"]
    assert [(e.name, e.time_unix_nano) for e in root.events] == [("token 1", 1_002_500_000_000)]
    assert [child.parent_span_id for child in children] == [root.span_id] * 2
    assert [child.span_id for child in children] == [n.to_bytes(8) for n in (101, 102)]
    assert children[0].status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert (root.flags, children[0].flags) == (0x301, 0x101)


def test_a_root_without_a_caller_has_no_parent() -> None:
    ended = ended_trace()
    alone = EndedTrace(Trace(9), ended.root, 0.0)
    (root,) = encoded(alone).resource_spans[1].scope_spans[0].spans
    assert (root.parent_span_id, root.flags) == (b"", 0x101)


def test_half_a_surrogate_pair_in_an_id_loses_no_batch() -> None:
    identity = RequestIdentity("\ud800", "", "tiny")
    span = request_span(Caller(), identity, "rejected", Lifetime(0.0, 0.0))
    (found,) = encoded(EndedTrace(Trace(1), span, 0.0)).resource_spans[0].scope_spans[0].spans
    assert read_attributes(found.attributes)["pdserve.request_id"] == "?"


def test_the_collector_s_refusals_are_read_from_its_answer() -> None:
    partial = trace_service_pb2.ExportTracePartialSuccess(rejected_spans=3)
    answer = trace_service_pb2.ExportTraceServiceResponse(partial_success=partial)
    assert num_rejected(answer.SerializeToString()) == 3
    assert num_rejected(b"") == 0
    assert num_rejected(b"{}") == 0
