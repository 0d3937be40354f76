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

from common.router_config import RouterConfig, TenantLimits
from pdserve.errors import (
    DuplicateRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    UnavailableError,
)
from router.access.tenant import ANONYMOUS, RequestKey, Tenant
from router.admission.admission import Admission, Outcome, Ticket
from tests.examples import examples
from tests.unit.router.admission.entering import enter

MAX_QUEUED, MAX_INFLIGHT, MAX_QUEUED_TOKENS = 3, 5, 60
TENANTS = [Tenant("acme"), Tenant("zeta")]


def make_admission() -> Admission:
    return Admission(
        RouterConfig(
            max_queued_requests=MAX_QUEUED,
            max_inflight_requests=MAX_INFLIGHT,
            max_queued_tokens=MAX_QUEUED_TOKENS,
        )
    )


def key(request_id: str) -> RequestKey:
    return RequestKey(ANONYMOUS, request_id)


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of arrivals, tokens, cancels and ends, against an account kept by hand."""

    tickets: Bundle[Ticket] = Bundle("tickets")

    @initialize()
    def begin(self) -> None:
        self.admission = make_admission()
        self.queued: dict[RequestKey, int] = {}
        self.running: set[RequestKey] = set()
        self.accepted = self.rejected = 0
        self.ended = dict.fromkeys(Outcome, 0)
        self.cancelled: list[RequestKey] = []

    @rule(
        target=tickets,
        number=st.integers(0, 4),
        tenant=st.sampled_from(TENANTS),
        num_tokens=st.integers(1, 40),
    )
    def arrive(
        self, number: int, tenant: Tenant, num_tokens: int
    ) -> Ticket | MultipleResults[Ticket]:
        key = RequestKey(tenant, f"r{number}")
        expected: type[Exception] | None = None
        if key in self.queued.keys() | self.running:
            expected = DuplicateRequestError
        elif self.is_above_its_share(tenant, num_tokens) or self.has_its_share_in_flight(tenant):
            expected = OverloadedError
        if expected is not None:
            with pytest.raises(expected):
                enter(self.admission, key, num_tokens)
            self.rejected += 1
            return multiple()
        self.queued[key] = num_tokens
        self.accepted += 1
        return enter(self.admission, key, num_tokens, lambda _: self.cancelled.append(key))

    def is_above_its_share(self, tenant: Tenant, num_tokens: int) -> bool:
        if (
            len(self.queued) < MAX_QUEUED
            and sum(self.queued.values()) + num_tokens <= MAX_QUEUED_TOKENS
        ):
            return False
        mine = [tokens for key, tokens in self.queued.items() if key.tenant == tenant]
        num_tenants = len({key.tenant for key in self.queued})
        return bool(mine) and (
            (len(mine) + 1) * num_tenants > MAX_QUEUED
            or (sum(mine) + num_tokens) * num_tenants > MAX_QUEUED_TOKENS
        )

    def has_its_share_in_flight(self, tenant: Tenant) -> bool:
        live = self.queued.keys() | self.running
        num_mine = sum(key.tenant == tenant for key in live)
        num_tenants = len({key.tenant for key in live} | {tenant})
        return len(live) >= MAX_INFLIGHT and 0 < num_mine > MAX_INFLIGHT // num_tenants - 1

    @rule(ticket=tickets)
    def token(self, ticket: Ticket) -> None:
        self.admission.note_tokens(ticket, 1)
        self.queued.pop(ticket.key, None)
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
        self.queued.pop(ticket.key, None)
        self.running.discard(ticket.key)
        self.ended[outcome] += 1
        with pytest.raises(NotFoundError):
            self.admission.cancel(ticket.key.tenant, ticket.key.request_id)

    @invariant()
    def the_accounts_agree(self) -> None:
        admission = self.admission
        assert admission.num_queued == len(self.queued) <= MAX_QUEUED + len(TENANTS) - 1
        assert admission.num_in_flight == len(self.queued.keys() | self.running)
        assert admission.num_in_flight <= MAX_INFLIGHT + MAX_INFLIGHT // len(TENANTS)
        assert (admission.accepted, admission.rejected) == (self.accepted, self.rejected)
        assert admission.ended == self.ended
        assert admission.accepted == sum(admission.ended.values()) + admission.num_in_flight


AdmissionMachine.TestCase.settings = settings(
    deadline=None, derandomize=True, max_examples=examples(30), stateful_step_count=40
)
TestAdmission = AdmissionMachine.TestCase


def test_a_full_queue_says_when_to_come_back_and_takes_the_next_after_one_left() -> None:
    admission = make_admission()
    tickets = [enter(admission, key(f"r{i}"), 1) for i in range(MAX_QUEUED)]
    with pytest.raises(OverloadedError, match="3 requests are queued") as caught:
        enter(admission, key("late"), 1)
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after_s > 0
    admission.leave(tickets[1])
    enter(admission, key("late"), 1)
    assert admission.num_queued == MAX_QUEUED


def test_a_first_token_frees_a_place_in_the_queue_but_not_in_flight() -> None:
    admission = make_admission()
    for number in range(MAX_INFLIGHT):
        ticket = enter(admission, key(f"r{number}"), 1)
        admission.note_tokens(ticket, 0)  # an answer may end without one
        assert admission.num_queued == 1
        admission.note_tokens(ticket, 1)
        admission.note_tokens(ticket, 2)  # every later token too
    assert (admission.num_queued, admission.num_in_flight) == (0, MAX_INFLIGHT)
    with pytest.raises(OverloadedError, match="5 requests are in flight"):
        enter(admission, key("late"), 1)


def test_a_duplicate_is_named_and_the_first_one_lives_on() -> None:
    admission = make_admission()
    enter(admission, key("same"), 1)
    with pytest.raises(DuplicateRequestError) as caught:
        enter(admission, key("same"), 1)
    assert (caught.value.reason, caught.value.field) == (
        Reason.DUPLICATE_REQUEST_ID,
        "request_id",
    )
    assert (admission.num_in_flight, admission.rejected) == (1, 1)


def test_draining_refuses_the_new_and_keeps_the_old() -> None:
    admission = make_admission()
    ticket = enter(admission, key("old"), 1)
    admission.drain()
    assert admission.is_draining
    with pytest.raises(UnavailableError) as caught:
        enter(admission, key("new"), 1)
    assert caught.value.reason is Reason.SHUTTING_DOWN
    ticket.outcome = Outcome.COMPLETED
    admission.leave(ticket)
    assert admission.ended[Outcome.COMPLETED] == 1


def test_a_request_nobody_vouched_for_counts_as_failed() -> None:
    admission = make_admission()
    admission.leave(enter(admission, key("r"), 1))
    assert admission.ended[Outcome.FAILED] == 1


def test_a_tenant_reaches_its_own_requests_and_an_admin_everybodys() -> None:
    admission, ended = make_admission(), []
    for name in ("acme", "zeta"):
        enter(admission, RequestKey(Tenant(name), "r"), 1, lambda _, name=name: ended.append(name))  # type: ignore[misc]
    with pytest.raises(NotFoundError, match="no request r is running"):
        admission.cancel(Tenant("other"), "r")
    with pytest.raises(NotFoundError):
        admission.cancel(Tenant("acme"), "zeta/r")
    admission.cancel(Tenant("zeta"), "r")
    admission.cancel(Tenant("zeta", is_admin=True), "r")  # its own, not the first of that name
    admission.cancel(Tenant("ops", is_admin=True), "zeta/r")
    admission.cancel(Tenant("ops", is_admin=True), "r")
    assert ended == ["zeta", "zeta", "zeta", "acme"]


def test_a_queue_is_full_of_tokens_too_but_takes_one_prompt_of_any_length() -> None:
    admission = make_admission()
    long = enter(admission, key("long"), 10 * MAX_QUEUED_TOKENS)
    with pytest.raises(OverloadedError, match="600 prompt tokens are queued"):
        enter(admission, key("short"), 1)
    admission.note_tokens(long, 1)
    enter(admission, key("short"), MAX_QUEUED_TOKENS)


def test_a_tenants_limits_are_its_own_and_a_refused_request_costs_it_nothing() -> None:
    limits = {"acme": TenantLimits(tokens_per_minute=60)}
    admission = Admission(RouterConfig(tenants=limits), clock=lambda: 0.0)
    acme, zeta = (RequestKey(Tenant(name), "r") for name in ("acme", "zeta"))

    def hopeless() -> None:
        reason = Reason.DEADLINE_UNREACHABLE
        raise OverloadedError("in vain", retry_after_s=1.0, reason=reason)

    with pytest.raises(OverloadedError, match="in vain"):
        enter(admission, acme, 60, forecast=hopeless)
    ticket = enter(admission, acme, 50)
    admission.note_tokens(ticket, 20)
    admission.leave(ticket)
    with pytest.raises(OverloadedError, match="its 60 tokens a minute") as caught:
        enter(admission, acme, 1)
    # 10 over, and 1 for this one, at 1 a second; it is the first in line, a second long, half more or less
    assert 11.5 <= caught.value.retry_after_s < 12.5
    enter(admission, zeta, 1000)
    assert (admission.accepted, admission.rejected) == (2, 2)
