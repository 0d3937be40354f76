"""Who is let in, and the account of everyone who was."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from common.config import RouterConfig
from pdserve.errors import (
    DuplicateRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestError,
    UnavailableError,
)
from router.tenant import RequestKey, Tenant, find


class Outcome(StrEnum):
    """How an accepted request ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(slots=True)
class Ticket:
    """One accepted request. It is queued until its first token."""

    key: RequestKey
    cancel: Callable[[], None]
    has_token: bool = False
    outcome: Outcome = Outcome.FAILED


class Admission:
    """Bounded: at most `max_queued_requests` without a token, `max_inflight_requests` in all.

    Invariant: accepted = completed + cancelled + failed + in flight.
    """

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._live: dict[RequestKey, Ticket] = {}
        self._num_queued = 0
        self.is_draining = False
        self.accepted = 0
        self.rejected = 0
        self.ended = dict.fromkeys(Outcome, 0)

    @property
    def num_in_flight(self) -> int:
        """Accepted and not ended."""
        return len(self._live)

    @property
    def num_queued(self) -> int:
        """Accepted and without a token."""
        return self._num_queued

    def enter(self, key: RequestKey, cancel: Callable[[], None]) -> Ticket:
        """Let a request in; `leave` must follow.

        Raises DuplicateRequestError, OverloadedError, UnavailableError.
        """
        refusal = self._refusal(key)
        if refusal is not None:
            self.reject()
            raise refusal
        ticket = self._live[key] = Ticket(key, cancel)
        self._num_queued += 1
        self.accepted += 1
        return ticket

    def reject(self) -> None:
        """Count a request that was refused."""
        self.rejected += 1

    def note_token(self, ticket: Ticket) -> None:
        """The request has a token: it is no longer queued."""
        if not ticket.has_token:
            ticket.has_token = True
            self._num_queued -= 1

    def leave(self, ticket: Ticket) -> None:
        """Close the account of a request."""
        self.note_token(ticket)
        del self._live[ticket.key]
        self.ended[ticket.outcome] += 1

    def cancel(self, tenant: Tenant, request_id: str) -> None:
        """End a live request that the tenant may see. Raises NotFoundError."""
        key = find(self._live, tenant, request_id)
        if key is None:
            raise NotFoundError(f"no request {request_id} is running", field="request_id")
        self._live[key].cancel()

    def drain(self) -> None:
        """Let nobody in any more."""
        self.is_draining = True

    def _refusal(self, key: RequestKey) -> RequestError | None:
        if self.is_draining:
            return UnavailableError("the router is shutting down", reason=Reason.SHUTTING_DOWN)
        if key in self._live:
            message = f"request {key.request_id} is running"
            return DuplicateRequestError(message, field="request_id")
        if self._num_queued >= self._config.max_queued_requests:
            return OverloadedError(f"{self._num_queued} requests are queued", retry_after_s=1.0)
        if len(self._live) >= self._config.max_inflight_requests:
            return OverloadedError(f"{len(self._live)} requests are in flight", retry_after_s=1.0)
        return None
