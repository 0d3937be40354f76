"""Ends of accepted requests: their number by reason, a log line each, and the spans of some."""

import time
from collections.abc import Sequence

from common.telemetry.request_log import RequestLog
from common.telemetry.tracing.span import trace_field
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.errors import Reason
from router.admission.admission import Outcome
from router.journey.live_request import LiveRequest
from router.journey.metrics import RouterMetrics
from router.journey.progress import Summary
from router.journey.request_spans import spans_of


class RequestEnds:
    """Counts and logs every accepted request once, when it has ended."""

    def __init__(self, metrics: RouterMetrics, tracing: Tracing = NO_TRACING) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._log = RequestLog()

    def note(self, request: LiveRequest, ended: Sequence[Summary]) -> None:
        """Count and log a request that was closed, with its choices that ended well.

        Its line has no text, token, salt or message.
        """
        ticket, job, arrival = request.ticket, request.job, request.arrival
        ended_s = time.monotonic()
        self._metrics.finished.labels(request.reason).inc()
        self._metrics.output_tokens.inc(ticket.num_output_tokens)
        self._metrics.tenants.note(ticket)
        self._judge(request, ended)
        self._log.write(
            "request_ended",
            request_id=job.request_id,
            tenant=job.tenant.name,
            outcome=ticket.outcome,
            reason=request.reason,
            prefill=request.route.prefill if request.route else None,
            decode=request.route.decode if request.route else None,
            num_choices=job.num_choices,
            num_prompt_tokens=len(job.prompt_token_ids),
            num_output_tokens=ticket.num_output_tokens,
            num_moves=request.num_moves,
            queue_s=_since(arrival.at_s, request.submitted_s or None),
            ttft_s=_since(arrival.at_s, request.first_token_s),
            total_s=_since(arrival.at_s, ended_s),
            **trace_field(request.trace),
        )
        if request.trace is not None:
            self._tracing.end(request.trace, spans_of(request, self._tracing.model, ended_s))

    def _judge(self, request: LiveRequest, ended: Sequence[Summary]) -> None:
        """Count the request by its objective. A client that leaves early misses only a late token 1."""
        slo, outcome = self._metrics.slo, request.ticket.outcome
        is_late = request.reason is Reason.DEADLINE_EXCEEDED
        if outcome is Outcome.COMPLETED:
            slo.note_completed([(c.first_token_s, c.tpot_s) for c in ended])
        elif is_late or (outcome is Outcome.FAILED and request.reason is not Reason.SLOW_CONSUMER):
            slo.note_failed()
        elif request.first_token_s is None:
            slo.note_left(time.monotonic() - request.arrival.at_s)


def _since(start_s: float, at_s: float | None) -> float | None:
    return None if at_s is None else round(at_s - start_s, 6)
