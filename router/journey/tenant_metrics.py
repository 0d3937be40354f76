"""Metrics of tenants: as many of them by name as the settings allow, the rest together."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from router.admission.admission import Outcome, Ticket

OTHER = "other"
ANONYMOUS = "anonymous"  # the one tenant of a router without an access file
REFUSED = "rejected"


@dataclass(slots=True)
class _Totals:
    """Totals of requests that have ended or were refused."""

    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*Outcome, REFUSED), 0))
    prompt_tokens: int = 0
    output_tokens: int = 0


class TenantMetrics(Collector):
    """Requests and tokens of the first `max_named` tenants that came, and of all others.

    With 0 there are no such metrics. A tenant that has its name keeps it.
    """

    def __init__(self, max_named: int) -> None:
        self._max_named = max_named
        self._totals: dict[str, _Totals] = {}

    def note(self, ticket: Ticket) -> None:
        """Count an accepted request that has ended."""
        if self._max_named:
            totals = self._of(ticket.key.tenant.name)
            totals.ended[ticket.outcome] += 1
            totals.prompt_tokens += ticket.num_prompt_tokens
            totals.output_tokens += ticket.num_output_tokens

    def note_refused(self, tenant: str) -> None:
        """Count a refused request."""
        if self._max_named:
            self._of(tenant).ended[REFUSED] += 1

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics now."""
        if not self._max_named:
            return
        requests = CounterMetricFamily(
            "pdserve_tenant_requests", "Ended requests of a tenant", labels=("tenant", "outcome")
        )
        prompt = CounterMetricFamily(
            "pdserve_tenant_prompt_tokens", "Prompt tokens of these", labels=("tenant",)
        )
        output = CounterMetricFamily(
            "pdserve_tenant_generation_tokens", "Output tokens of these", labels=("tenant",)
        )
        for label, totals in list(self._totals.items()):  # another thread adds some
            for outcome, count in totals.ended.items():
                requests.add_metric((label, outcome), count)
            prompt.add_metric((label,), totals.prompt_tokens)
            output.add_metric((label,), totals.output_tokens)
        yield from (requests, prompt, output)

    def _of(self, tenant: str) -> _Totals:
        """Return a tenant's totals, or those of all that have no name here."""
        name = tenant or ANONYMOUS
        num_named = len(self._totals.keys() - {OTHER})
        if name not in self._totals and num_named >= self._max_named:
            name = OTHER
        return self._totals.setdefault(name, _Totals())
