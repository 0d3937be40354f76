"""Rows of the overview for faults, the router's process, and tenants."""

from scripts.dashboards.model import GREEN, RED, YELLOW, Panel, Query, Row
from scripts.dashboards.queries import HERE, of_workers, total

_BY = "worker, role"
_FINISHED, _BAD_END = "pdserve_requests_finished_total", 'reason!~"stop|length"'
FAULTS = Row(
    "Faults",
    (
        Panel(
            "Workers that take work",
            "Ready workers by role; one that drains, hangs or restarts is missing",
            [Query(f"sum by (role) ({of_workers('pdserve_worker_up', by=_BY)})", "{{role}}")],
            "short",
        ),
        Panel(
            "Restarts of workers",
            "Processes that took a worker's name, in the last 10 minutes",
            [
                Query(
                    f"max by (worker) (increase(pdserve_worker_restarts_total{{{HERE}}}[10m])) > 0",
                    "{{worker}}",
                )
            ],
            "short",
        ),
        Panel(
            "Requests that moved",
            "Choices that went on at another worker, by cause; the client notices a gap at most",
            [Query(total("pdserve_request_migrations_total", by="cause"), "{{cause}}")],
            "reqps",
        ),
        Panel(
            "Ends by reason",
            "Requests that did not end with stop or length, by reason (docs/use/errors.md)",
            [
                Query(f"{total(_FINISHED, _BAD_END, 'reason')} > 0", "{{reason}}"),
            ],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Log lines that were lost",
            "Lines that the router's stderr did not take: a full disk, or a pipe nobody reads",
            [Query(total("pdserve_log_lines_lost_total"), "lines/s")],
            "short",
        ),
        Panel(
            "Router: memory",
            "Memory of each router's process in RAM",
            [Query(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")],
            "bytes",
        ),
        Panel(
            "Router: CPU",
            "Cores that each router's process uses; it cannot use more than about one",
            [Query(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])", "{{instance}}")],
            "short",
            steps=((GREEN, None), (YELLOW, 0.7), (RED, 0.9)),
        ),
        Panel(
            "Router: file descriptors",
            "Share of the descriptors that each router's process may open",
            [
                Query(
                    f"process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}}",
                    "{{instance}}",
                )
            ],
            "percentunit",
            most=1,
        ),
    ),
)
_TENANT = 'tenant=~"$tenant"'
TENANTS = Row(
    "Tenants",
    (
        Panel(
            "Requests of tenants",
            "Ended and refused requests a second; empty unless router.metrics_tenants is set",
            [Query(total("pdserve_tenant_requests_total", _TENANT, "tenant"), "{{tenant}}")],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Refused requests of tenants",
            "Requests that were not let in, by tenant",
            [
                Query(
                    total(
                        "pdserve_tenant_requests_total",
                        _TENANT + ', outcome="rejected"',
                        "tenant",
                    ),
                    "{{tenant}}",
                )
            ],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Tokens of tenants",
            "Prompt and output tokens a second, by tenant",
            [
                Query(
                    total("pdserve_tenant_prompt_tokens_total", _TENANT, "tenant"),
                    "{{tenant}}: prompt",
                ),
                Query(
                    total("pdserve_tenant_generation_tokens_total", _TENANT, "tenant"),
                    "{{tenant}}: output",
                ),
            ],
            "short",
            is_stacked=True,
        ),
    ),
    is_open=False,
)
