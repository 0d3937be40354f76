import pytest

from common.router_config import RouterConfig, TenantLimits
from pdserve.errors import OverloadedError
from router.access.tenant import RequestKey, Tenant
from router.admission.admission import Admission, Ticket
from tests.unit.router.admission.entering import enter


def enter_as(admission: Admission, tenant: str, number: int) -> Ticket:
    return enter(admission, RequestKey(Tenant(tenant), f"r{number}"), 10)


def test_one_tenant_that_fills_the_queue_keeps_no_other_out() -> None:
    """A tenant of weight 3 beside one of weight 1 has 3 of 4 places."""
    limits = {"big": TenantLimits(weight=3.0)}
    admission = Admission(RouterConfig(max_queued_requests=4, tenants=limits))

    for number in range(4):
        enter_as(admission, "small", number)
    for number in range(3):
        with pytest.raises(OverloadedError, match="requests are queued"):
            enter_as(admission, "small", 9)
        enter_as(admission, "big", number)
    with pytest.raises(OverloadedError, match="7 requests are queued"):
        enter_as(admission, "big", 9)


def test_one_tenant_that_streams_as_much_as_may_be_keeps_no_other_out() -> None:
    """A tenant of weight 3 beside one of weight 1 has 3 of 4 in flight."""
    limits = {"big": TenantLimits(weight=3.0)}
    admission = Admission(RouterConfig(max_inflight_requests=4, tenants=limits))

    def stream(tenant: str, number: int) -> Ticket:
        ticket = enter_as(admission, tenant, number)
        admission.note_tokens(ticket, 1)
        return ticket

    first = [stream("small", number) for number in range(4)]
    for number in range(3):
        with pytest.raises(OverloadedError, match="requests are in flight"):
            stream("small", 9)
        stream("big", number)
    with pytest.raises(OverloadedError, match="7 requests are in flight"):
        stream("big", 9)
    for ticket in first:
        with pytest.raises(OverloadedError, match="requests are in flight"):
            stream("small", 9)
        admission.leave(ticket)
    stream("small", 9)
