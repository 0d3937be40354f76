"""The latest decisions, for `Explain`."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from pdserve.errors import NotFoundError
from router.access.tenant import RequestKey, Tenant, find
from router.journey.progress import Summary
from router.routing.policy import Decision

_MAX_REMEMBERED = 1024


@dataclass(slots=True)
class DecisionEntry:
    """Decision of one request, and the summaries of its finished choices by number."""

    decision: Decision
    arrival_s: float  # since the router's start
    finished: dict[int, Summary] = field(default_factory=dict)


class DecisionLog:
    """Decisions by request. The oldest are forgotten; an id that came again has its last one."""

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._start_s = time.monotonic()
        self._entries: OrderedDict[RequestKey, DecisionEntry] = OrderedDict()

    def record(self, key: RequestKey, decision: Decision, arrival_s: float) -> None:
        """Keep a request's decision; `arrival_s` is on the router's monotonic clock."""
        self._entries[key] = DecisionEntry(decision, arrival_s - self._start_s)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_remembered:
            self._entries.popitem(last=False)

    def note_finished(self, key: RequestKey, choice: int, summary: Summary) -> None:
        """Keep the summary of a finished choice; ignored when its decision is forgotten."""
        if key in self._entries:
            self._entries[key].finished[choice] = summary

    def find(self, tenant: Tenant, request_id: str) -> RequestKey:
        """Return the key of the request of this id that the tenant may see. Raises NotFoundError."""
        key = find(self._entries, tenant, request_id)
        if key is None:
            raise NotFoundError(
                f"request {request_id} is not among the last {self._max_remembered}",
                field="request_id",
            )
        return key

    def entry(self, key: RequestKey) -> DecisionEntry:
        """Return the entry of a request that `find` found just now."""
        return self._entries[key]
