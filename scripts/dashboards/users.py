"""Rows of the overview for what users get: latency, requests, and how long they wait."""

from scripts.dashboards.model import Panel, Query, Row
from scripts.dashboards.queries import HERE, of_workers, quantiles, total

_SLO, _ENDS, _BY = "pdserve_slo_requests_total", "pdserve_requests_total", "worker, role"


def _named(queries: list[Query], legend: str) -> list[Query]:
    return [Query(query.expr, legend) for query in queries]


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
