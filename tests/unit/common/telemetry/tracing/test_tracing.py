"""Sampling: the caller decides, or else a ratio."""

import random

import pytest

from common.telemetry.tracing.caller import Caller
from common.telemetry.tracing.exporter import ExportCounts, SpanExporter
from common.telemetry.tracing.span import Trace
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from tests.unit.common.telemetry.tracing.ended import ended_trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STRANGER = Caller()


def tracing(ratio: float) -> Tracing:
    return Tracing(SpanExporter(lambda batch: 0), ratio)


def called(flags: str, tracestate: str = "") -> Caller:
    return Caller(0.0, "chat", f"00-{TRACE}-{SPAN}-{flags}", tracestate)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_the_caller_s_decision_holds_at_every_ratio(ratio: float) -> None:
    traced = tracing(ratio)
    assert traced.begin(called("01", "a=1")) == Trace(int(TRACE, 16), int(SPAN, 16), "a=1")
    assert traced.begin(called("00")) is None


def test_requests_of_nobody_s_trace_are_sampled_by_the_ratio() -> None:
    random.seed(1)
    none, some, all_ = (
        [tracing(ratio).begin(STRANGER) for _ in range(1000)] for ratio in (0.0, 0.25, 1.0)
    )
    assert not any(none)
    assert 150 < sum(trace is not None for trace in some) < 350
    names = {trace.name for trace in all_ if trace is not None}
    assert len(names) == 1000
    assert {len(name) for name in names} == {32}


def test_a_void_traceparent_counts_as_none() -> None:
    broken = Caller(0.0, "chat", "00-no-no-01")
    assert tracing(0.0).begin(broken) is None
    trace = tracing(1.0).begin(broken)
    assert trace is not None
    assert trace.parent_id == 0


def test_nothing_is_traced_while_tracing_is_off() -> None:
    assert NO_TRACING.begin(called("01")) is None
    ended = ended_trace()
    NO_TRACING.start()
    NO_TRACING.end(ended.trace, ended.root)
    NO_TRACING.stop(0.0)
    assert NO_TRACING.counts == ExportCounts()
