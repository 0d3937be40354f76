"""The board of a whole deployment: what users get, and where it comes from."""

from scripts.dashboards.faults import FAULTS, TENANTS
from scripts.dashboards.model import GREEN, RED, YELLOW, Board, Panel, Query, Row, Variable
from scripts.dashboards.pools import DECODE, HANDOFF, MEMORY, PREFILL
from scripts.dashboards.queries import HERE, of_workers, rate_of_workers, share, total
from scripts.dashboards.users import QUEUE, USERS

_BAD_SHARE = ((GREEN, None), (YELLOW, 0.01), (RED, 0.05))
_GOOD_SHARE = ((RED, None), (YELLOW, 0.95), (GREEN, 0.99))
_SLO, _ENDS = "pdserve_slo_requests_total", "pdserve_requests_total"
_GOOD = share(total(_SLO, 'result="met"'), total(_SLO))
_REFUSED = share(total("pdserve_requests_refused_total"), total(_ENDS))
_FAILED = share(total(_ENDS, 'outcome="failed"'), total(_ENDS))
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
