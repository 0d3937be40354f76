import pytest

from common.router_config import TenantLimits
from pdserve.errors import OverloadedError, Reason
from router.admission.tenant_accounts import TenantAccounts


def enter(tenants: TenantAccounts, tenant: str, num_tokens: int, now_s: float) -> None:
    tenants.check(tenant, num_tokens, now_s)
    tenants.enter(tenant, num_tokens, now_s)


def refusal(tenants: TenantAccounts, tenant: str, num_tokens: int, now_s: float) -> OverloadedError:
    with pytest.raises(OverloadedError) as caught:
        tenants.check(tenant, num_tokens, now_s)
    assert caught.value.reason is Reason.TENANT_LIMIT
    return caught.value


def test_without_limits_everybody_enters() -> None:
    tenants = TenantAccounts(TenantLimits(), {})
    for number in range(1000):
        enter(tenants, "a", 10**6, float(number))
    assert tenants.weight("a") == 1.0


def test_no_more_requests_at_once_than_allowed_and_others_do_not_matter() -> None:
    tenants = TenantAccounts(TenantLimits(max_requests=2), {"b": TenantLimits(max_requests=1)})
    enter(tenants, "a", 1, 0.0)
    enter(tenants, "a", 1, 0.0)
    enter(tenants, "b", 1, 0.0)
    assert "2 requests" in refusal(tenants, "a", 1, 0.0).message
    refusal(tenants, "b", 1, 0.0)
    tenants.leave("a", 0, 0.0)
    enter(tenants, "a", 1, 0.0)


def test_a_minutes_tokens_come_back_evenly() -> None:
    """600 a minute are 10 a second."""
    tenants = TenantAccounts(TenantLimits(tokens_per_minute=600), {})
    enter(tenants, "a", 500, 0.0)
    error = refusal(tenants, "a", 200, 0.0)
    assert error.retry_after_s == pytest.approx(10.0)
    refusal(tenants, "a", 200, 9.9)
    enter(tenants, "a", 200, 10.0)
    # another's bucket is its own
    enter(tenants, "b", 600, 10.0)


def test_output_is_paid_for_at_the_end() -> None:
    tenants = TenantAccounts(TenantLimits(tokens_per_minute=600), {})
    enter(tenants, "a", 100, 0.0)
    tenants.leave("a", 700, 0.0)
    assert refusal(tenants, "a", 1, 0.0).retry_after_s == pytest.approx(20.1)
    enter(tenants, "a", 1, 20.2)


def test_a_refused_request_costs_nothing_and_a_large_one_needs_a_full_bucket() -> None:
    tenants = TenantAccounts(TenantLimits(tokens_per_minute=600), {})
    enter(tenants, "a", 10, 0.0)
    refusal(tenants, "a", 10_000, 0.0)
    enter(tenants, "a", 10_000, 1.0)
    assert refusal(tenants, "a", 1, 1.0).retry_after_s == pytest.approx((9400 + 1) / 10)


def test_who_used_nothing_is_forgotten() -> None:
    tenants = TenantAccounts(TenantLimits(tokens_per_minute=600), {})
    enter(tenants, "a", 100, 0.0)
    tenants.leave("a", 0, 60.0)
    assert not tenants._accounts
