"""Callers: when a request came, and the trace that its caller is in (W3C Trace Context, level 1)."""

import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

# the words of OpenTelemetry's GenAI conventions
Operation = Literal["chat", "text_completion"]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\t -~]{1,512}")
_SAMPLED = 1  # bit of the flags


@dataclass(frozen=True, slots=True)
class Caller:
    """Call that brought a request. `arrived_s` is monotonic; the headers are as they came."""

    arrived_s: float | None = None
    operation: Operation = "text_completion"
    traceparent: str = ""
    tracestate: str = ""


class TraceParent(NamedTuple):
    """Span of the caller, and whether its trace is sampled."""

    trace_id: int
    span_id: int
    is_sampled: bool


_UNKNOWN = Caller()
_current: ContextVar[Caller] = ContextVar("caller", default=_UNKNOWN)


def current_caller() -> Caller:
    """Return the call that this task serves."""
    return _current.get()


def note_caller(operation: Operation, headers: Iterable[tuple[str, str | bytes]]) -> None:
    """Note the call that this task serves, by its HTTP headers or its gRPC metadata.

    Names are in lower case. A second `traceparent` makes both void, as the standard says.
    """
    parents, states = list[str](), list[str]()
    for name, value in headers:
        if name in ("traceparent", "tracestate") and isinstance(value, str):
            (parents if name == "traceparent" else states).append(value)
    parent = parents[0] if len(parents) == 1 else ""
    _current.set(Caller(time.monotonic(), operation, parent, ",".join(states)))


def parse_traceparent(header: str) -> TraceParent | None:
    """Return the caller's span; None if the header is not valid."""
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    parent = TraceParent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None


def parse_tracestate(header: str) -> str:
    """Return the header to hand on; empty if it is not valid, or over 512 characters."""
    return header if _TRACESTATE.fullmatch(header) else ""
