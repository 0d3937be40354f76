"""Spans of a request that has ended, made of what the router noted and the workers reported.

request: the caller's arrival to the end
├─ queue: the accepted request, until it is sent
└─ attempt: a choice at its workers; one more for each move
   └─ the worker's stages (common/telemetry/tracing/stages.py)
"""

from common.telemetry.tracing.request_span import Lifetime, RequestIdentity, request_span
from common.telemetry.tracing.span import ROUTER, AttributeValue, Service, Span, SpanEvent
from common.telemetry.tracing.stages import Stage, stages_of
from pdserve.errors import Reason
from router.journey.attempt import Attempt
from router.journey.live_request import LiveChoice, LiveRequest

_KEPT = 64  # parts at each end of a stage, so that a long prompt's trace stays small
Numbers = dict[str, AttributeValue]


def spans_of(request: LiveRequest, model: str, ended_s: float) -> Span:
    """Return a closed request's spans. They have no text, token or salt."""
    job, ticket = request.job, request.ticket
    error = str(request.reason) if isinstance(request.reason, Reason) else ""
    events = () if request.first_token_s is None else (SpanEvent("token 1", request.first_token_s),)
    return request_span(
        job.caller,
        RequestIdentity(job.request_id, job.tenant.name, model),
        str(ticket.outcome),
        Lifetime(request.arrival.at_s, ended_s),
        error=error,
        attributes={**_asked(request), **_answered(request)},
        events=events,
        children=(_queue(request, ended_s), *_attempts(request, ended_s, error)),
    )


def _asked(request: LiveRequest) -> Numbers:
    sampling, num_choices = request.job.sampling, request.job.num_choices
    found: Numbers = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.request.top_p": float(sampling.top_p),
    }
    if sampling.top_k:
        found["gen_ai.request.top_k"] = sampling.top_k
    if num_choices != 1:
        found["gen_ai.request.choice.count"] = num_choices
    return found


def _answered(request: LiveRequest) -> Numbers:
    job = request.job
    found: Numbers = {
        "gen_ai.usage.input_tokens": len(job.prompt_token_ids),
        "gen_ai.usage.output_tokens": request.ticket.num_output_tokens,
        "pdserve.num_moves": request.num_moves,
    }
    first = request.choices[0].attempts[-1:]
    if first and first[0].timings is not None:
        num_cached = min(first[0].timings.num_cached_tokens, len(job.prompt_token_ids))
        found["gen_ai.usage.cache_read.input_tokens"] = num_cached
    reasons = tuple(str(c.finish_reason) for c in request.choices if c.finish_reason)
    if reasons:
        found["gen_ai.response.id"] = job.request_id
        found["gen_ai.response.finish_reasons"] = reasons
    if request.first_token_s is not None:
        since_s = request.first_token_s - request.arrival.at_s
        found["gen_ai.response.time_to_first_chunk"] = since_s
    return found


def _queue(request: LiveRequest, ended_s: float) -> Span:
    end_s = request.submitted_s or ended_s
    return Span("queue", ROUTER, request.arrival.at_s, end_s, {})


def _attempts(request: LiveRequest, ended_s: float, error: str) -> list[Span]:
    return [
        _attempt(choice, number, attempt, ended_s, error)
        for choice in request.choices
        for number, attempt in enumerate(choice.attempts, 1)
    ]


def _attempt(choice: LiveChoice, number: int, attempt: Attempt, ended_s: float, error: str) -> Span:
    route, timings = attempt.route, attempt.timings
    found: Numbers = {
        "pdserve.choice": choice.number,
        "pdserve.attempt": number,
        "pdserve.decode_worker": route.decode,
    }
    if route.prefill is not None:
        found["pdserve.prefill_worker"] = route.prefill
    if attempt.failure is not None:
        reason = str(attempt.failure)
    else:
        reason = error if choice.finish_reason is None else ""
    if reason:
        found["error.type"] = reason
    children: tuple[Span, ...] = ()
    if timings is not None:
        found["pdserve.num_preemptions"] = timings.num_preemptions
        found["pdserve.clock_error_s"] = timings.clock_error_s
        children = tuple(_stage(stage, attempt) for stage in stages_of(timings))
    end_s = attempt.ended_s if attempt.ended_s is not None else ended_s
    return Span("attempt", ROUTER, attempt.sent_s, end_s, found, children, error=reason)


def _stage(stage: Stage, attempt: Attempt) -> Span:
    """Return a stage as a span on this router's clock; of many parts, the first and the last."""
    names = {"prefill": attempt.route.prefill or "", "decode": attempt.route.decode}
    parts = stage.parts
    if len(parts) > 2 * _KEPT:
        parts = (*parts[:_KEPT], *parts[-_KEPT:])
    return Span(
        stage.name,
        Service(stage.place, names[stage.place]),
        attempt.sent_s + stage.start_s,
        attempt.sent_s + stage.end_s,
        {f"pdserve.{name}": number for name, number in stage.facts.items()},
        tuple(_stage(part, attempt) for part in parts),
    )
