"""Tests of the metrics of tenants, and of the bound on their labels."""

from prometheus_client import CollectorRegistry

from router.access.tenant import ANONYMOUS, RequestKey, Tenant
from router.admission.admission import Outcome, Ticket
from router.journey.tenant_metrics import TenantMetrics


def ticket(tenant: Tenant, outcome: Outcome = Outcome.COMPLETED) -> Ticket:
    found = Ticket(RequestKey(tenant, "r"), 10, lambda _: None, 3)
    found.outcome = outcome
    return found


def totals(metrics: TenantMetrics) -> dict[tuple[str, ...], float]:
    """Return the samples that are not zero: by the metric's ending and the labels' values."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        (sample.name.removeprefix("pdserve_tenant_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.value and sample.name.endswith("_total")
    }


def test_a_tenant_has_its_requests_and_tokens() -> None:
    metrics = TenantMetrics(2)
    metrics.note(ticket(Tenant("acme")))
    metrics.note(ticket(Tenant("acme"), Outcome.FAILED))
    metrics.note_refused("acme")
    metrics.note(ticket(ANONYMOUS))
    assert totals(metrics) == {
        ("requests_total", "acme", "completed"): 1,
        ("requests_total", "acme", "failed"): 1,
        ("requests_total", "acme", "rejected"): 1,
        ("requests_total", "anonymous", "completed"): 1,
        ("prompt_tokens_total", "acme"): 20,
        ("prompt_tokens_total", "anonymous"): 10,
        ("generation_tokens_total", "acme"): 6,
        ("generation_tokens_total", "anonymous"): 3,
    }


def test_tenants_beyond_the_bound_share_a_label_and_the_first_keep_theirs() -> None:
    metrics = TenantMetrics(2)
    for name in ("a", "b", "c", "d", "a"):
        metrics.note(ticket(Tenant(name)))
    metrics.note_refused("e")
    found = totals(metrics)
    assert {key[1]: value for key, value in found.items() if key[0] == "prompt_tokens_total"} == {
        "a": 20,
        "b": 10,
        "other": 20,
    }
    assert found["requests_total", "other", "rejected"] == 1


def test_by_default_no_tenant_is_named_and_there_is_no_metric() -> None:
    metrics = TenantMetrics(0)
    metrics.note(ticket(Tenant("acme")))
    metrics.note_refused("acme")
    assert list(metrics.collect()) == []
