"""Who is let in, and the account of everyone who was."""

import time
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
from router.tenants import Tenants


class Outcome(StrEnum):
    """How an accepted request ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(slots=True)
class Ticket:
    """One accepted request. It is queued until its first token."""

    key: RequestKey
    num_prompt_tokens: int
    cancel: Callable[[], None]
    num_output_tokens: int = 0
    outcome: Outcome = Outcome.FAILED


class Admission:
    """Bounded: at most `max_queued_requests` without a token, whose prompts have at most `max_queued_tokens`,
    `max_inflight_requests` in all, and of each tenant what its limits say. Beyond a full queue a tenant still
    gets its share of one, by weight among those who wait, or one request if it has none there.

    Invariant: accepted = completed + cancelled + failed + in flight.
    """

    def __init__(self, config: RouterConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self.tenants = Tenants(config.tenant, config.tenants)
        self._live: dict[RequestKey, Ticket] = {}
        self._num_queued = 0
        self._num_queued_tokens = 0
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

    def enter(
        self,
        key: RequestKey,
        num_prompt_tokens: int,
        cancel: Callable[[], None],
        forecast: Callable[[], None] = lambda: None,
    ) -> Ticket:
        """Let a request in; `leave` must follow.

        `forecast` is asked last, and raises OverloadedError if waiting would be in vain.
        Raises DuplicateRequestError, OverloadedError, UnavailableError.
        """
        try:
            self._check(key, num_prompt_tokens)
            self.tenants.check(key.tenant.name, num_prompt_tokens, self._clock())
            forecast()
        except RequestError:
            self.reject()
            raise
        self.tenants.enter(key.tenant.name, num_prompt_tokens, self._clock())
        ticket = self._live[key] = Ticket(key, num_prompt_tokens, cancel)
        self._num_queued += 1
        self._num_queued_tokens += num_prompt_tokens
        self.accepted += 1
        return ticket

    def reject(self) -> None:
        """Count a request that was refused."""
        self.rejected += 1

    def note_tokens(self, ticket: Ticket, number: int) -> None:
        """The request has so many tokens more: it is no longer queued."""
        if number and not ticket.num_output_tokens:
            self._leave_queue(ticket)
        ticket.num_output_tokens += number

    def leave(self, ticket: Ticket) -> None:
        """Close the account of a request."""
        if not ticket.num_output_tokens:
            self._leave_queue(ticket)
        del self._live[ticket.key]
        self.tenants.leave(ticket.key.tenant.name, ticket.num_output_tokens, self._clock())
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

    def _leave_queue(self, ticket: Ticket) -> None:
        self._num_queued -= 1
        self._num_queued_tokens -= ticket.num_prompt_tokens

    def _check(self, key: RequestKey, num_prompt_tokens: int) -> None:
        config, num_tokens = self._config, self._num_queued_tokens
        if self.is_draining:
            raise UnavailableError("the router is shutting down", reason=Reason.SHUTTING_DOWN)
        if key in self._live:
            message = f"request {key.request_id} is running"
            raise DuplicateRequestError(message, field="request_id")
        is_full = self._num_queued >= config.max_queued_requests
        is_full_of_tokens = num_tokens + num_prompt_tokens > config.max_queued_tokens
        if (is_full or is_full_of_tokens) and not self._is_within_share(key, num_prompt_tokens):
            found = f"{self._num_queued} requests" if is_full else f"{num_tokens} prompt tokens"
            raise OverloadedError(f"{found} are queued", retry_after_s=1.0)
        if len(self._live) >= config.max_inflight_requests:
            raise OverloadedError(f"{len(self._live)} requests are in flight", retry_after_s=1.0)

    def _is_within_share(self, key: RequestKey, num_prompt_tokens: int) -> bool:
        """Whether the tenant has less waiting than its part of a full queue. Alone there, a prompt may be
        larger than the whole.
        """
        waiting = [ticket for ticket in self._live.values() if not ticket.num_output_tokens]
        mine = [ticket for ticket in waiting if ticket.key.tenant == key.tenant]
        if not mine:
            return True
        names = {ticket.key.tenant.name for ticket in waiting}
        weights = {name: self.tenants.weight(name) for name in names}
        share = weights[key.tenant.name] / sum(weights.values())
        num_tokens = sum(ticket.num_prompt_tokens for ticket in mine) + num_prompt_tokens
        return (
            len(mine) + 1 <= share * self._config.max_queued_requests
            and num_tokens <= share * self._config.max_queued_tokens
        )
