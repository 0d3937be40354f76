"""The span of a request, named by OpenTelemetry's GenAI conventions where these have a name."""

from typing import NamedTuple

from common.telemetry.tracing.caller import Caller
from common.telemetry.tracing.span import (
    ROUTER,
    Attributes,
    AttributeValue,
    Span,
    SpanEvent,
)

PROVIDER = "pdserve"


class RequestIdentity(NamedTuple):
    """Names by which a request is found. No text of it is among them."""

    request_id: str
    tenant: str
    model: str


class Lifetime(NamedTuple):
    """Accepted, or refused, until its end; monotonic seconds."""

    start_s: float
    end_s: float


def request_span(
    caller: Caller,
    identity: RequestIdentity,
    outcome: str,
    lifetime: Lifetime,
    *,
    error: str = "",
    attributes: Attributes | None = None,
    events: tuple[SpanEvent, ...] = (),
    children: tuple[Span, ...] = (),
) -> Span:
    """Return the span of a request from its caller's arrival. `error` is the reason of a bad end."""
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": caller.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": identity.model,
        "pdserve.request_id": identity.request_id,
        "pdserve.tenant": identity.tenant,
        "pdserve.outcome": outcome,
        **(attributes or {}),
    }
    if error:
        found["error.type"] = error
    start_s = lifetime.start_s if caller.arrived_s is None else caller.arrived_s
    return Span(
        f"{caller.operation} {identity.model}",
        ROUTER,
        min(start_s, lifetime.start_s),
        lifetime.end_s,
        found,
        children,
        events,
        error,
        is_server=True,
    )
