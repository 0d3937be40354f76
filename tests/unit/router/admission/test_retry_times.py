"""Refused requests that come again, on a virtual clock."""

import heapq
from collections import Counter
from itertools import count

import pytest

from common.router_config import RouterConfig, TenantLimits
from pdserve.errors import OverloadedError, Reason
from router.access.tenant import ANONYMOUS, RequestKey, Tenant
from router.admission.admission import Admission, Outcome, Ticket
from router.admission.retry_times import MAX_BACKLOG_S, RetryTimes
from router.admission.wait_limit import Forecast, WaitLimit
from tests.unit.router.admission.entering import enter

SERVICE_S = 0.25


class Fleet:
    """Clients of a server that runs one prompt at a time; each comes again until it is admitted."""

    def __init__(self, *, obedient: bool) -> None:
        self.now_s = 0.0
        self.admission = Admission(RouterConfig(), clock=lambda: self.now_s)
        self.limit = WaitLimit(10.0)
        self.busy_until_s = 0.0
        self.obedient = obedient
        self.attempts: list[float] = []
        self.served_s: list[float] = []
        self._events: list[tuple[float, int, str]] = []
        self._running: list[tuple[float, int, Ticket]] = []
        self._numbers = count()

    def run(self, arrivals: list[float], until_s: float) -> None:
        for number, arrival_s in enumerate(arrivals):
            self._come(arrival_s, f"r{number}")
        while self._events and self._events[0][0] < until_s:
            self.now_s, _, name = heapq.heappop(self._events)
            self._finish()
            self.attempts.append(self.now_s)
            try:
                self._enter(name)
            except OverloadedError as error:
                self._come(self.now_s + (error.retry_after_s if self.obedient else 0.1), name)

    def _enter(self, name: str) -> None:
        wait_s = max(self.busy_until_s - self.now_s, 0.0)
        forecast = Forecast(wait_s, SERVICE_S, 0.0, round(wait_s / SERVICE_S))

        def ask() -> None:
            self.limit.check(forecast, None, self.now_s, is_over_share=False)

        ticket = enter(self.admission, RequestKey(ANONYMOUS, name), 100, forecast=ask)
        self.busy_until_s = self.now_s + wait_s + SERVICE_S
        self.served_s.append(self.busy_until_s)
        heapq.heappush(self._running, (self.busy_until_s, next(self._numbers), ticket))

    def _finish(self) -> None:
        while self._running and self._running[0][0] <= self.now_s:
            ticket = heapq.heappop(self._running)[2]
            ticket.outcome = Outcome.COMPLETED
            self.admission.leave(ticket)

    def _come(self, at_s: float, name: str) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), name))


def test_a_storm_is_spread_and_nobody_is_idle_meanwhile() -> None:
    """Ten seconds of ten times the capacity, 100 s of work; every client comes again until it is served."""
    arrivals = [number * SERVICE_S / 10 for number in range(400)]
    storm, fleet = Fleet(obedient=False), Fleet(obedient=True)
    storm.run(arrivals, until_s=1000.0)
    fleet.run(arrivals, until_s=1000.0)
    assert len(storm.attempts) > 10_000
    assert len(fleet.attempts) < 3 * len(arrivals)
    # 360 are out when the last has arrived; never do they come faster than they first did
    a_second = Counter(int(at_s) for at_s in fleet.attempts if at_s >= 11.0)
    assert max(a_second.values()) <= 30
    assert len(fleet.served_s) == len(arrivals)
    assert max(fleet.served_s) < 1.35 * len(arrivals) * SERVICE_S


def test_the_delay_grows_with_those_who_were_refused_and_is_bounded() -> None:
    retry_times = RetryTimes()
    delays = [retry_times.delay_s("acme", f"r{number}", 2.0, 0.0) for number in range(1000)]
    assert 2.5 <= delays[0] < 3.5
    assert all(2.0 < delay <= 2.0 + 1.5 * MAX_BACKLOG_S for delay in delays)
    # the line is full after 30, one a second: the others are spread over 30 s
    by_second = Counter(int(delay) for delay in delays[30:])
    assert len(by_second) == 30
    assert max(by_second.values()) < 60
    assert sorted(delays[:20])[10] < 15 < sorted(delays[30:])[10]


def test_the_line_moves_as_fast_as_requests_are_let_in() -> None:
    slow, fast = RetryTimes(), RetryTimes()
    for number in range(2000):
        fast.note_accepted("acme", number / 100)
    last_s = 20.0
    for _ in range(9):
        slow.delay_s("acme", "r", 0.0, last_s)
        fast.delay_s("acme", "r", 0.0, last_s)
    assert slow.delay_s("acme", "r", 0.0, last_s) == pytest.approx(
        fast.delay_s("acme", "r", 0.0, last_s) * 100, rel=0.2
    )
    later_s = last_s + 60.0
    assert slow.delay_s("acme", "r", 0.0, later_s) < 1.5, "those were due long ago"


def test_a_request_is_told_the_same_again_in_the_same_place() -> None:
    first, second = RetryTimes(), RetryTimes()
    assert first.delay_s("acme", "r", 1.0, 5.0) == second.delay_s("acme", "r", 1.0, 5.0)
    assert first.delay_s("acme", "q", 1.0, 99.0) != second.delay_s("acme", "r", 1.0, 99.0)


def test_a_tenant_over_its_limit_stands_in_a_line_of_its_own() -> None:
    limits = TenantLimits(max_requests=1)
    config = RouterConfig(tenants={"greedy": limits}, max_inflight_requests=2)
    admission = Admission(config, lambda: 0.0)
    greedy, other = Tenant("greedy"), Tenant("other")
    enter(admission, RequestKey(greedy, "a"), 1)
    for number in range(100):
        with pytest.raises(OverloadedError) as caught:
            admission.refuse_early(greedy, f"r{number}")
        assert caught.value.reason is Reason.TENANT_LIMIT
    assert caught.value.retry_after_s > 10
    enter(admission, RequestKey(other, "a"), 1)
    with pytest.raises(OverloadedError, match="in flight") as caught:
        admission.refuse_early(other, "r")
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after_s < 2
    assert admission.rejected == 101


def test_a_full_queue_has_a_line_for_each_tenant() -> None:
    admission = Admission(RouterConfig(max_inflight_requests=2), lambda: 0.0)
    greedy, other = Tenant("greedy"), Tenant("other")
    for tenant, name in ((greedy, "a"), (greedy, "b"), (other, "a")):
        enter(admission, RequestKey(tenant, name), 1)
    for number in range(100):
        assert refused_for_s(admission, greedy, f"r{number}") < 50
    assert refused_for_s(admission, greedy, "r") > 10
    assert refused_for_s(admission, other, "r") < 2


def test_who_would_come_too_late_takes_no_place() -> None:
    admission = Admission(RouterConfig(max_inflight_requests=1), lambda: 0.0)

    def in_vain() -> None:
        raise OverloadedError("late", retry_after_s=0.5, reason=Reason.DEADLINE_UNREACHABLE)

    for _ in range(100):
        with pytest.raises(OverloadedError) as caught:
            enter(admission, RequestKey(ANONYMOUS, "r"), 1, forecast=in_vain)
        assert 1.0 <= caught.value.retry_after_s < 2.0
    enter(admission, RequestKey(ANONYMOUS, "r"), 1)
    assert refused_for_s(admission, ANONYMOUS, "q") < 2


def refused_for_s(admission: Admission, tenant: Tenant, name: str) -> float:
    with pytest.raises(OverloadedError, match="in flight") as caught:
        admission.refuse_early(tenant, name)
    assert caught.value.reason is Reason.QUEUE_FULL
    return caught.value.retry_after_s
