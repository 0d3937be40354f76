"""Admission: limits on requests in the queue and in flight, and the account of all requests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from common.router_config import RouterConfig
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.errors import (
    DuplicateRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from router.access.tenant import RequestKey, Tenant, find
from router.admission.queued import Queued
from router.admission.refusals import Refusals
from router.admission.retry_times import RetryTimes
from router.admission.tenant_accounts import TenantAccounts

_LEAST_RETRY_S = 0.5


class Outcome(StrEnum):
    """The end of an accepted request."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(slots=True)
class Ticket:
    """An accepted request's entry in the account. The request is queued until its first token."""

    key: RequestKey
    num_prompt_tokens: int
    end: Callable[[RequestError], None]
    num_output_tokens: int = 0
    outcome: Outcome = Outcome.FAILED


class Admission:
    """Limits what is queued and in flight, and keeps the account.

    At most `max_queued_requests` are without a token, with at most `max_queued_tokens` in their
    prompts, and `max_inflight_requests` are in flight. Each tenant has its own limits besides.
    Beyond a full limit a tenant still gets its share, by weight among the tenants there, or one
    request if it has none there.

    Invariant: accepted = completed + cancelled + failed + in flight.
    """

    def __init__(
        self,
        config: RouterConfig,
        clock: Callable[[], float] = time.monotonic,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._config = config
        self._clock = clock
        self.tenants = TenantAccounts(config.tenant, config.tenants)
        self._live: dict[RequestKey, Ticket] = {}
        self._live_of: dict[str, int] = {}  # by tenant, without those that have none
        self._queued = Queued()
        self._queued_of: dict[str, Queued] = {}  # by tenant, likewise
        self._retry_times = RetryTimes()
        self.is_draining = False
        self.refusals = Refusals(tracing)
        self.accepted = 0
        self.ended = dict.fromkeys(Outcome, 0)

    @property
    def num_in_flight(self) -> int:
        """Number of requests that were accepted and have not ended."""
        return len(self._live)

    @property
    def num_queued(self) -> int:
        """Number of accepted requests without a token."""
        return self._queued.num_requests

    @property
    def adds_up(self) -> bool:
        """True while the account is right: accepted = completed + cancelled + failed + in flight."""
        return self.accepted == sum(self.ended.values()) + self.num_in_flight

    @property
    def rejected(self) -> int:
        """Number of requests that were refused."""
        return self.refusals.total

    def refuse_early(self, tenant: Tenant, request_id: str) -> None:
        """Refuse a request before its prompt is parsed, if `check` would refuse it with any prompt.

        A request id that is running is left to `check`. A refusal is counted. Raises what `check`
        does.
        """
        key = RequestKey(tenant, request_id)
        if key not in self._live:
            with self.refusing(key):
                self.check(key, 1)

    @contextmanager
    def refusing(self, key: RequestKey) -> Iterator[None]:
        """Count a RequestError raised inside as a refusal, and set its `retry_after_s`."""
        try:
            yield
        except RequestError as error:
            self.count_refusal(key, error)
            self.set_retry_after(key, error)
            raise

    def check(self, key: RequestKey, num_prompt_tokens: int) -> None:
        """Raise if the request may not come in now. Changes and counts nothing.

        Raises DuplicateRequestError, OverloadedError, UnavailableError.
        """
        self._check_router(key, num_prompt_tokens)
        self.tenants.check(key.tenant.name, num_prompt_tokens, self._clock())

    def admit(
        self, key: RequestKey, num_prompt_tokens: int, end: Callable[[RequestError], None]
    ) -> Ticket:
        """Let in a request that passed `check`; `leave` must follow.

        `Admission.cancel` and `end_all` call `end` with the error that the request ends with.
        """
        name, now_s = key.tenant.name, self._clock()
        self.tenants.enter(name, num_prompt_tokens, now_s)
        self._retry_times.note_accepted(name, now_s)
        ticket = self._live[key] = Ticket(key, num_prompt_tokens, end)
        self._live_of[name] = self._live_of.get(name, 0) + 1
        self._queued.add(1, num_prompt_tokens)
        self._queued_of.setdefault(name, Queued()).add(1, num_prompt_tokens)
        self.accepted += 1
        return ticket

    def set_retry_after(self, key: RequestKey, error: RequestError) -> None:
        """Set an OverloadedError's `retry_after_s`: a tenant's refused requests come back in turn."""
        if isinstance(error, OverloadedError):
            retry_times, name = self._retry_times, key.request_id or str(self.rejected)
            # clients with such a deadline are told not to come again, so they must delay no other
            is_in_vain = error.reason is Reason.DEADLINE_UNREACHABLE
            delay_s = retry_times.outlook_s if is_in_vain else retry_times.delay_s
            least_s, now_s = error.retry_after_s, self._clock()
            error.retry_after_s = delay_s(key.tenant.name, name, least_s, now_s)

    def count_refusal(self, key: RequestKey, error: RequestError) -> None:
        """Count and log a request that was refused; its id may be empty or invalid."""
        self.refusals.note(key, error)

    def note_tokens(self, ticket: Ticket, number: int) -> None:
        """Count output tokens of a request. With its first one it leaves the queue."""
        if number and not ticket.num_output_tokens:
            self._leave_queue(ticket)
        ticket.num_output_tokens += number

    def leave(self, ticket: Ticket) -> None:
        """Close a request's entry under its outcome."""
        if not ticket.num_output_tokens:
            self._leave_queue(ticket)
        name = ticket.key.tenant.name
        del self._live[ticket.key]
        self._live_of[name] -= 1
        if not self._live_of[name]:
            del self._live_of[name]
        self.tenants.leave(name, ticket.num_output_tokens, self._clock())
        self.ended[ticket.outcome] += 1

    def cancel(self, tenant: Tenant, request_id: str) -> None:
        """End a live request that the tenant may see. Raises NotFoundError."""
        key = find(self._live, tenant, request_id)
        if key is None:
            raise NotFoundError(f"no request {request_id} is running", field="request_id")
        self._live[key].end(RequestCancelledError("cancelled by Cancel"))

    def drain(self) -> None:
        """Refuse all new requests from now on."""
        self.is_draining = True

    def end_all(self) -> None:
        """End all live requests with SHUTTING_DOWN. Each leaves in its own task, soon after."""
        for ticket in tuple(self._live.values()):
            ticket.end(_shutting_down("the router shut down before the end"))

    def _leave_queue(self, ticket: Ticket) -> None:
        name, num_tokens = ticket.key.tenant.name, ticket.num_prompt_tokens
        self._queued.add(-1, num_tokens)
        self._queued_of[name].add(-1, num_tokens)
        if not self._queued_of[name].num_requests:
            del self._queued_of[name]

    def _check_router(self, key: RequestKey, num_prompt_tokens: int) -> None:
        config, queued = self._config, self._queued
        if self.is_draining:
            raise _shutting_down("the router is shutting down")
        if key in self._live:
            message = f"request {key.request_id} is running"
            raise DuplicateRequestError(message, field="request_id")
        is_full = queued.num_requests >= config.max_queued_requests
        is_full_of_tokens = queued.num_tokens + num_prompt_tokens > config.max_queued_tokens
        if (is_full or is_full_of_tokens) and not self._can_queue_in_share(key, num_prompt_tokens):
            number = queued.num_requests if is_full else queued.num_tokens
            found = f"{number} {'requests' if is_full else 'prompt tokens'} are queued"
            raise OverloadedError(found, retry_after_s=_LEAST_RETRY_S)
        if len(self._live) >= config.max_inflight_requests and not self._can_run_in_share(key):
            raise OverloadedError(
                f"{len(self._live)} requests are in flight", retry_after_s=_LEAST_RETRY_S
            )

    def _can_queue_in_share(self, key: RequestKey, num_prompt_tokens: int) -> bool:
        """Return True if the prompt fits the tenant's share of a full queue.

        A tenant's only prompt there may be of any length.
        """
        name = key.tenant.name
        mine = self._queued_of.get(name)
        if mine is None:
            return True
        share = self.tenants.part(name, self._queued_of)
        return (
            mine.num_requests + 1 <= share * self._config.max_queued_requests
            and mine.num_tokens + num_prompt_tokens <= share * self._config.max_queued_tokens
        )

    def _can_run_in_share(self, key: RequestKey) -> bool:
        """Return True if one more request fits the tenant's share of `max_inflight_requests`."""
        name = key.tenant.name
        num_mine = self._live_of.get(name, 0)
        share = self.tenants.part(name, self._live_of)
        return not num_mine or num_mine + 1 <= share * self._config.max_inflight_requests


def _shutting_down(message: str) -> UnavailableError:
    return UnavailableError(message, reason=Reason.SHUTTING_DOWN)
