"""The board of a whole deployment: what users get, and where it comes from."""

from scripts.dashboards.model import GREEN, RED, YELLOW, Board, Panel, Query, Row, Variable
from scripts.dashboards.pools import DECODE, HANDOFF, MEMORY, PREFILL
from scripts.dashboards.queries import HERE, of_workers, quantiles, rate_of_workers, share, total

_BAD_SHARE = ((GREEN, None), (YELLOW, 0.01), (RED, 0.05))
_GOOD_SHARE = ((RED, None), (YELLOW, 0.95), (GREEN, 0.99))
_SLO, _ENDS = "pdserve_slo_requests_total", "pdserve_requests_total"
_FINISHED, _BAD_END = "pdserve_requests_finished_total", 'reason!~"stop|length"'
_GOOD = share(total(_SLO, 'result="met"'), total(_SLO))
_REFUSED = share(total("pdserve_requests_refused_total"), total(_ENDS))
_FAILED = share(total(_ENDS, 'outcome="failed"'), total(_ENDS))
_BY = "worker, role"
_OUTPUT = f"sum ({rate_of_workers('pdserve_worker_generation_tokens_total')})"


def _ready(role: str) -> str:
    up = of_workers("pdserve_worker_up", f'role="{role}"')
    return f"sum ({up})"


def _stat(
    title: str,
    about: str,
    expr: str,
    unit: str = "percentunit",
    steps: tuple[tuple[str, float | None], ...] = ((GREEN, None),),
) -> Panel:
    return Panel(title, about, [Query(expr, title)], unit, width=4, kind="stat", steps=steps)


def _named(queries: list[Query], legend: str) -> list[Query]:
    return [Query(query.expr, legend) for query in queries]


NOW = Row(
    "Now",
    (
        _stat(
            "Good requests",
            "Share of requests within router.slo_ttft_s and router.slo_tpot_s; empty without them",
            _GOOD,
            steps=_GOOD_SHARE,
        ),
        _stat("Refused", "Share of requests that were not let in", _REFUSED, steps=_BAD_SHARE),
        _stat("Failed", "Share of requests that ended with an error", _FAILED, steps=_BAD_SHARE),
        _stat("Output tokens/s", "Tokens that all workers generate", _OUTPUT, "short"),
        _stat(
            "Decode workers ready",
            "Those that take work; without one, requests wait for router.max_outage_s",
            _ready("decode"),
            "short",
            ((RED, None), (GREEN, 1)),
        ),
        _stat(
            "Prefill workers ready",
            "Those that take work; without one, decode workers run the prompts",
            _ready("prefill"),
            "short",
        ),
    ),
)
USERS = Row(
    "User experience",
    (
        Panel(
            "Time to the first token (TTFT)",
            "Arrival at the router to the first token; the line is router.slo_ttft_s",
            [
                *quantiles("pdserve_time_to_first_token_seconds", 50, 95, 99),
                Query(f'max (pdserve_slo_target_seconds{{{HERE}, target="ttft"}})', "objective"),
            ],
            "s",
        ),
        Panel(
            "Gap between tokens (ITL)",
            "Gap between two tokens that follow each other, over all requests",
            quantiles("pdserve_inter_token_latency_seconds", 50, 95, 99),
            "s",
        ),
        Panel(
            "Time per later token of a request (TPOT)",
            "First to last token by token; the line is router.slo_tpot_s",
            [
                *quantiles("pdserve_request_time_per_output_token_seconds", 50, 95, 99),
                Query(f'max (pdserve_slo_target_seconds{{{HERE}, target="tpot"}})', "objective"),
            ],
            "s",
        ),
        Panel(
            "Goodput",
            "Requests a second by what became of their objective; empty without one",
            [Query(total(_SLO, by="result"), "{{result}}")],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Requests",
            "Ended requests a second, by outcome; rejected ones were not let in",
            [Query(total(_ENDS, by="outcome"), "{{outcome}}")],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Refusals",
            "Requests that were not let in, by reason (docs/use/errors.md)",
            [Query(f"{total('pdserve_requests_refused_total', by='reason')} > 0", "{{reason}}")],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Whole requests",
            "Arrival at the router to the last token",
            quantiles("pdserve_e2e_request_latency_seconds", 50, 95, 99),
            "s",
        ),
        Panel(
            "Lengths",
            "Median tokens of a prompt and of an answer",
            [
                *_named(quantiles("pdserve_request_prompt_tokens", 50), "prompt"),
                *_named(quantiles("pdserve_request_generation_tokens", 50), "answer"),
            ],
            "short",
        ),
        Panel(
            "Tokens of requests",
            "Tokens a second, of requests that ended; a cached token was not computed",
            [
                Query(total("pdserve_prompt_tokens_total"), "prompt"),
                Query(total("pdserve_prompt_tokens_cached_total"), "prompt, cached"),
                Query(total("pdserve_generation_tokens_total"), "answer"),
            ],
            "short",
        ),
    ),
)
QUEUE = Row(
    "Queue",
    (
        Panel(
            "Requests in the router",
            "Accepted requests that have not ended, and those of them without a token",
            [
                Query(f"sum (pdserve_requests_in_flight{{{HERE}}})", "in flight"),
                Query(f"sum (pdserve_requests_queued{{{HERE}}})", "without a token"),
            ],
            "short",
        ),
        Panel(
            "Time in queues",
            "Arrival at the router to the first prefill chunk, on whichever worker",
            quantiles("pdserve_request_queue_time_seconds", 50, 95, 99),
            "s",
        ),
        Panel(
            "Prompt tokens that wait at workers",
            "Tokens of prompts that have not run, by role",
            [
                Query(
                    f"sum by (role) ({of_workers('pdserve_worker_tokens_waiting', by=_BY)})",
                    "{{role}}",
                )
            ],
            "short",
            is_stacked=True,
        ),
    ),
)
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
DEPLOYMENT = Variable("deployment", "Deployment (job)", "pdserve_build_info", "job")
OVERVIEW = Board(
    "pdserve-overview",
    "pdserve: overview",
    "What users of a deployment get, and where it comes from. docs/operate/dashboards.md",
    (
        DEPLOYMENT,
        Variable("tenant", "Tenant", f"pdserve_tenant_requests_total{{{HERE}}}", "tenant"),
    ),
    (NOW, USERS, QUEUE, PREFILL, DECODE, HANDOFF, MEMORY, FAULTS, TENANTS),
    {"Workers": "pdserve-workers"},
)
