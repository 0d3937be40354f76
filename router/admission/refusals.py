"""Refused requests: their number by reason, and a log line each."""

from collections.abc import Callable

from common.telemetry.request_log import RequestLog
from pdserve.errors import Reason, RequestError
from router.access.tenant import RequestKey

_MAX_LINES_PER_S = 10  # clients that come again and again must not fill the disk
_MAX_ID_CHARS = 256  # a longer id is refused, and is not worth a line


class Refusals:
    """Account of the requests that were refused. Lines beyond 10 a second are counted, not written."""

    def __init__(self) -> None:
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
        self._log.write(
            "request_ended",
            request_id=key.request_id if len(key.request_id) <= _MAX_ID_CHARS else "",
            tenant=key.tenant.name,
            outcome="rejected",
            reason=error.reason,
        )
