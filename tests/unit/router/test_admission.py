import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from common.config import RouterConfig
from pdserve.errors import (
    DuplicateRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    UnavailableError,
)
from router.admission import Admission, Outcome, Ticket
from router.tenant import ANONYMOUS, RequestKey, Tenant

MAX_QUEUED, MAX_INFLIGHT = 3, 5
TENANTS = [Tenant("acme"), Tenant("zeta")]


def make_admission() -> Admission:
    return Admission(
        RouterConfig(max_queued_requests=MAX_QUEUED, max_inflight_requests=MAX_INFLIGHT)
    )


def ignore() -> None:
    pass


def key(request_id: str) -> RequestKey:
    return RequestKey(ANONYMOUS, request_id)


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of arrivals, tokens, cancels and ends, against an account kept by hand."""

    tickets: Bundle[Ticket] = Bundle("tickets")

    @initialize()
    def begin(self) -> None:
        self.admission = make_admission()
        self.queued: set[RequestKey] = set()
        self.running: set[RequestKey] = set()
        self.accepted = self.rejected = 0
        self.ended = dict.fromkeys(Outcome, 0)
        self.cancelled: list[RequestKey] = []

    @rule(target=tickets, number=st.integers(0, 4), tenant=st.sampled_from(TENANTS))
    def arrive(self, number: int, tenant: Tenant) -> Ticket | MultipleResults[Ticket]:
        key = RequestKey(tenant, f"r{number}")
        expected: type[Exception] | None = None
        if key in self.queued | self.running:
            expected = DuplicateRequestError
        elif len(self.queued) >= MAX_QUEUED or len(self.queued | self.running) >= MAX_INFLIGHT:
            expected = OverloadedError
        if expected is not None:
            with pytest.raises(expected):
                self.admission.enter(key, ignore)
            self.rejected += 1
            return multiple()
        self.queued.add(key)
        self.accepted += 1
        return self.admission.enter(key, lambda: self.cancelled.append(key))

    @rule(ticket=tickets)
    def token(self, ticket: Ticket) -> None:
        self.admission.note_token(ticket)
        self.queued.discard(ticket.key)
        self.running.add(ticket.key)

    @rule(ticket=tickets)
    def cancel(self, ticket: Ticket) -> None:
        before = len(self.cancelled)
        self.admission.cancel(ticket.key.tenant, ticket.key.request_id)
        assert self.cancelled[before:] == [ticket.key]

    @rule(ticket=consumes(tickets), outcome=st.sampled_from(Outcome))
    def end(self, ticket: Ticket, outcome: Outcome) -> None:
        ticket.outcome = outcome
        self.admission.leave(ticket)
        self.queued.discard(ticket.key)
        self.running.discard(ticket.key)
        self.ended[outcome] += 1
        with pytest.raises(NotFoundError):
            self.admission.cancel(ticket.key.tenant, ticket.key.request_id)

    @invariant()
    def the_accounts_agree(self) -> None:
        admission = self.admission
        assert admission.num_queued == len(self.queued) <= MAX_QUEUED
        assert admission.num_in_flight == len(self.queued | self.running) <= MAX_INFLIGHT
        assert (admission.accepted, admission.rejected) == (self.accepted, self.rejected)
        assert admission.ended == self.ended
        assert admission.accepted == sum(admission.ended.values()) + admission.num_in_flight


AdmissionMachine.TestCase.settings = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=40
)
TestAdmission = AdmissionMachine.TestCase


def test_a_full_queue_says_when_to_come_back_and_takes_the_next_after_one_left() -> None:
    admission = make_admission()
    tickets = [admission.enter(key(f"r{i}"), ignore) for i in range(MAX_QUEUED)]
    with pytest.raises(OverloadedError, match="3 requests are queued") as caught:
        admission.enter(key("late"), ignore)
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after_s > 0
    admission.leave(tickets[1])
    admission.enter(key("late"), ignore)
    assert admission.num_queued == MAX_QUEUED


def test_a_first_token_frees_a_place_in_the_queue_but_not_in_flight() -> None:
    admission = make_admission()
    for number in range(MAX_INFLIGHT):
        ticket = admission.enter(key(f"r{number}"), ignore)
        admission.note_token(ticket)
        admission.note_token(ticket)  # every later token too
    assert (admission.num_queued, admission.num_in_flight) == (0, MAX_INFLIGHT)
    with pytest.raises(OverloadedError, match="5 requests are in flight"):
        admission.enter(key("late"), ignore)


def test_a_duplicate_is_named_and_the_first_one_lives_on() -> None:
    admission = make_admission()
    admission.enter(key("same"), ignore)
    with pytest.raises(DuplicateRequestError) as caught:
        admission.enter(key("same"), ignore)
    assert (caught.value.reason, caught.value.field) == (
        Reason.DUPLICATE_REQUEST_ID,
        "request_id",
    )
    assert (admission.num_in_flight, admission.rejected) == (1, 1)


def test_draining_refuses_the_new_and_keeps_the_old() -> None:
    admission = make_admission()
    ticket = admission.enter(key("old"), ignore)
    admission.drain()
    assert admission.is_draining
    with pytest.raises(UnavailableError) as caught:
        admission.enter(key("new"), ignore)
    assert caught.value.reason is Reason.SHUTTING_DOWN
    ticket.outcome = Outcome.COMPLETED
    admission.leave(ticket)
    assert admission.ended[Outcome.COMPLETED] == 1


def test_a_request_nobody_vouched_for_counts_as_failed() -> None:
    admission = make_admission()
    admission.leave(admission.enter(key("r"), ignore))
    assert admission.ended[Outcome.FAILED] == 1


def test_a_tenant_reaches_its_own_requests_and_an_admin_everybodys() -> None:
    admission, ended = make_admission(), []
    for name in ("acme", "zeta"):
        admission.enter(RequestKey(Tenant(name), "r"), lambda name=name: ended.append(name))  # type: ignore[misc]
    with pytest.raises(NotFoundError, match="no request r is running"):
        admission.cancel(Tenant("other"), "r")
    with pytest.raises(NotFoundError):
        admission.cancel(Tenant("acme"), "zeta/r")
    admission.cancel(Tenant("zeta"), "r")
    admission.cancel(Tenant("zeta", is_admin=True), "r")  # its own, not the first of that name
    admission.cancel(Tenant("ops", is_admin=True), "zeta/r")
    admission.cancel(Tenant("ops", is_admin=True), "r")
    assert ended == ["zeta", "zeta", "zeta", "acme"]
