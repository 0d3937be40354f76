"""Spans of a trace, as plain data. Times are seconds on this process's monotonic clock."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

AttributeValue = str | int | float | tuple[str, ...]
Attributes = Mapping[str, AttributeValue]
ServiceRole = Literal["router", "prefill", "decode"]


class Service(NamedTuple):
    """Process whose work a span tells; `instance` is empty where its name is not known."""

    role: ServiceRole
    instance: str = ""


ROUTER = Service("router")


class SpanEvent(NamedTuple):
    """Moment within a span."""

    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Span:
    """Stretch of a request's life, with the stretches inside. `error` is a reason, or empty."""

    name: str
    service: Service
    start_s: float
    end_s: float
    attributes: Attributes
    children: tuple["Span", ...] = ()
    events: tuple[SpanEvent, ...] = ()
    error: str = ""
    is_server: bool = False  # the call of a client

    def walk(self) -> Iterator["Span"]:
        """Yield this span and all inside."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Trace:
    """Trace that a sampled request is in. `parent_id` is the caller's span; 0 without one."""

    trace_id: int
    parent_id: int = 0
    state: str = ""  # of the caller, W3C tracestate

    @property
    def name(self) -> str:
        """The trace id as W3C writes it: 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"


def trace_field(trace: Trace | None) -> dict[str, str]:
    """Return the field of a log line that names a request's trace; none if it is not sampled."""
    return {} if trace is None else {"trace_id": trace.name}


@dataclass(frozen=True, slots=True)
class EndedTrace:
    """All spans that one request adds to its trace.

    `epoch_s` is the Unix time of the monotonic clock's zero, for all of its spans alike.
    """

    trace: Trace
    root: Span
    epoch_s: float
    num_spans: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_spans", sum(1 for _ in self.root.walk()))
