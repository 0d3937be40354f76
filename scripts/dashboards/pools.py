"""Rows about the two pools of workers, the hand-off between them, and their KV memory."""

from scripts.dashboards.model import GREEN, RED, YELLOW, Panel, Query, Row
from scripts.dashboards.queries import of_workers, quantiles, rate_of_workers, share, total

_FULL = ((GREEN, None), (YELLOW, 0.8), (RED, 0.95))
_CAUSE = "worker, cause"
_CREDIT = of_workers("pdserve_worker_kv_credit_bytes", 'state="total"')
_PREFILL, _DECODE = 'role="prefill"', 'role="decode"'


def _batch(role: str) -> Panel:
    running = of_workers("pdserve_worker_sequences_running", f'role="{role}"')
    capacity = of_workers("pdserve_worker_sequences_capacity", f'role="{role}"')
    return Panel(
        f"Batch occupancy of {role}",
        "Sequences in the batch, as a share of engine.max_num_seqs",
        [Query(share(running, capacity), "{{worker}}")],
        "percentunit",
        most=1,
    )


def _waiting(role: str) -> Panel:
    return Panel(
        f"Sequences that wait for {role}",
        "Sequences at a worker that are not in its batch yet",
        [Query(of_workers("pdserve_worker_sequences_waiting", f'role="{role}"'), "{{worker}}")],
        "short",
        is_stacked=True,
    )


PREFILL = Row(
    "Prefill pool",
    (
        _batch("prefill"),
        _waiting("prefill"),
        Panel(
            "Prompt tokens computed",
            "Tokens a second that prefill workers run",
            [Query(rate_of_workers("pdserve_worker_prefill_tokens_total", _PREFILL), "{{worker}}")],
            "short",
            is_stacked=True,
        ),
        Panel(
            "Time of prefill",
            "Start of a prompt's first chunk to the end of its last one, on any worker",
            quantiles("pdserve_request_prefill_time_seconds", 50, 95, 99),
            "s",
        ),
        Panel(
            "Chunks",
            "Prefill chunks a second, of choices that ended",
            [Query(total("pdserve_prefill_chunks_total"), "chunks/s")],
            "short",
        ),
    ),
)
DECODE = Row(
    "Decode pool",
    (
        _batch("decode"),
        _waiting("decode"),
        Panel(
            "Output tokens",
            "Tokens a second that decode workers generate",
            [
                Query(
                    rate_of_workers("pdserve_worker_generation_tokens_total", _DECODE), "{{worker}}"
                )
            ],
            "short",
            is_stacked=True,
        ),
        Panel(
            "Tokens of a step",
            "Output tokens of a decode step: the mean batch that really runs",
            [
                Query(
                    share(
                        rate_of_workers("pdserve_worker_generation_tokens_total", _DECODE),
                        rate_of_workers("pdserve_worker_steps_total", _DECODE),
                    ),
                    "{{worker}}",
                )
            ],
            "short",
        ),
        Panel(
            "Prompt tokens computed by decode",
            "Prompts that ran where they decode, and what ran a second time",
            [
                Query(
                    rate_of_workers("pdserve_worker_prefill_tokens_total", _DECODE), "{{worker}}"
                ),
                Query(
                    rate_of_workers("pdserve_worker_recomputed_tokens_total", _DECODE),
                    "{{worker}}: again",
                ),
            ],
            "short",
        ),
        Panel(
            "Time of decode",
            "Start of a choice's first decode step to the end of its last one",
            quantiles("pdserve_request_decode_time_seconds", 50, 95, 99),
            "s",
        ),
    ),
)
HANDOFF = Row(
    "Hand-off",
    (
        Panel(
            "Time of the hand-off",
            "End of the last prefill chunk to the decode step that includes the request",
            quantiles("pdserve_handoff_seconds", 50, 95, 99),
            "s",
        ),
        Panel(
            "KV shipped",
            "Bytes a second from prefill to decode, of choices that ended",
            [Query(total("pdserve_kv_shipped_bytes_total"), "bytes/s")],
            "Bps",
        ),
        Panel(
            "Credit for KV on its way",
            "What is wanted of a decode worker's credit; above 1, prompts wait for it",
            [
                Query(
                    share(
                        of_workers("pdserve_worker_kv_credit_bytes", 'state="wanted"'),
                        f"({_CREDIT} > 0)",
                    ),
                    "{{worker}}",
                )
            ],
            "percentunit",
            steps=((GREEN, None), (RED, 1)),
        ),
        Panel(
            "Hand-offs that failed",
            "Prompts that decode finished itself, and pieces of KV that were refused",
            [
                Query(
                    rate_of_workers("pdserve_worker_prefill_fallbacks_total"),
                    "{{worker}}: fell back",
                ),
                Query(rate_of_workers("pdserve_worker_kv_rejected_total"), "{{worker}}: refused"),
            ],
            "short",
        ),
        Panel(
            "Object store spilled to disk",
            "Bytes a second that Ray's object store wrote to disk: a latency cliff",
            [Query(rate_of_workers("pdserve_object_store_spilled_bytes_total"), "{{worker}}")],
            "Bps",
        ),
    ),
)
MEMORY = Row(
    "KV memory",
    (
        Panel(
            "KV blocks in use",
            "Share of a worker's blocks that sequences hold; cached blocks are free to take",
            [
                Query(
                    share(
                        of_workers("pdserve_worker_kv_blocks", 'state="used"'),
                        of_workers("pdserve_worker_kv_blocks_capacity"),
                    ),
                    "{{worker}}",
                )
            ],
            "percentunit",
            steps=_FULL,
            most=1,
        ),
        Panel(
            "KV blocks by cause",
            "Blocks of all workers by why they are held; a shared one counts for each holder",
            [
                Query(
                    f"sum by (cause) ({of_workers('pdserve_worker_kv_blocks_held', by=_CAUSE)})",
                    "{{cause}}",
                )
            ],
            "short",
            is_stacked=True,
        ),
        Panel(
            "Prefix cache",
            "Share of prompt tokens that the cache had, by worker",
            [
                Query(
                    share(
                        rate_of_workers("pdserve_worker_prefix_cache_hits_total"),
                        rate_of_workers("pdserve_worker_prefix_cache_queries_total"),
                    ),
                    "{{worker}}",
                )
            ],
            "percentunit",
            most=1,
        ),
        Panel(
            "Preemptions",
            "Sequences a second that gave their blocks back, and those kept in host memory",
            [
                Query(rate_of_workers("pdserve_worker_preemptions_total"), "{{worker}}"),
                Query(rate_of_workers("pdserve_worker_swaps_total"), "{{worker}}: swapped"),
            ],
            "short",
        ),
    ),
)
