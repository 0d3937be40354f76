"""Traces with round numbers."""

from common.telemetry.tracing.span import ROUTER, EndedTrace, Service, Span, SpanEvent, Trace


def ended_trace(trace_id: int = 1, num_children: int = 2) -> EndedTrace:
    """Return a trace from second 1 to second 4 of a clock whose zero is Unix time 1,000."""
    child = Span("chunk", Service("prefill", "prefill-0"), 1.5, 2.0, {"pdserve.num_tokens": 16})
    root = Span(
        "chat tiny",
        ROUTER,
        1.0,
        4.0,
        {"error.type": "CANCELLED", "gen_ai.response.finish_reasons": ("stop", "length")},
        (child,) * num_children,
        (SpanEvent("token 1", 2.5),),
        "CANCELLED",
        is_server=True,
    )
    return EndedTrace(Trace(trace_id, 7, "a=1"), root, 1000.0)
