"""Refused requests: their number by reason, a log line each, and the spans of some."""

import time
from collections.abc import Callable

from common.telemetry.request_log import RequestLog
from common.telemetry.tracing.caller import current_caller
from common.telemetry.tracing.request_span import Lifetime, RequestIdentity, request_span
from common.telemetry.tracing.span import trace_field
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.errors import Reason, RequestError
from router.access.tenant import RequestKey

_MAX_LINES_PER_S = 10  # clients that come again and again must not fill the disk
_MAX_ID_CHARS = 256  # a longer id is refused, and is not worth a line


class Refusals:
    """Account of the requests that were refused. Lines beyond 10 a second are counted, not written."""

    def __init__(self, tracing: Tracing = NO_TRACING) -> None:
        self._tracing = tracing
        self.total = 0
        self.by_reason = dict.fromkeys(Reason, 0)
        self.listeners: list[Callable[[str], None]] = []  # told the tenant of each refusal
        self._log = RequestLog(_MAX_LINES_PER_S)

    def note(self, key: RequestKey, error: RequestError) -> None:
        """Count a refused request. Its line has no message, since that may quote the request."""
        self.total += 1
        self.by_reason[error.reason] += 1
        for note in self.listeners:
            note(key.tenant.name)
        caller = current_caller()
        trace, now_s = self._tracing.begin(caller), time.monotonic()
        request_id = key.request_id if len(key.request_id) <= _MAX_ID_CHARS else ""
        self._log.write(
            "request_ended",
            request_id=request_id,
            tenant=key.tenant.name,
            outcome="rejected",
            reason=error.reason,
            **trace_field(trace),
        )
        if trace is not None:
            identity = RequestIdentity(request_id, key.tenant.name, self._tracing.model)
            moment = Lifetime(now_s, now_s)
            span = request_span(caller, identity, "rejected", moment, error=str(error.reason))
            self._tracing.end(trace, span)
