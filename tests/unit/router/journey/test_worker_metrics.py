"""Tests of what a scrape shows of the workers."""

from prometheus_client import CollectorRegistry

from common.messages import Role, WorkerInfo, WorkerLoad
from router.journey.worker_metrics import WorkerCollector
from router.workers.view import WorkerState, WorkerView

INFO = WorkerInfo("decode-0", Role.DECODE, 1, "i", "tiny", 512, 259)
LOAD = WorkerLoad(
    blocks_total=16,
    blocks_free=9,
    blocks_cached=4,
    preemptions=5,
    swaps=2,
    prefill_fallbacks=3,
    kv_rejected=1,
    prefix_query_tokens=70,
    prefix_hit_tokens=30,
    recomputed_tokens=9,
    blocks_decoding=6,
    blocks_pulling=1,
)
LABELS = {"worker": "decode-0", "role": "decode"}


def scraped(view: WorkerView) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: [view]))
    return registry


def test_the_states_of_blocks_add_up_to_the_capacity() -> None:
    registry = scraped(WorkerView(INFO, LOAD, WorkerState.READY, "a", is_connected=True))

    def blocks(state: str) -> float | None:
        return registry.get_sample_value("pdserve_worker_kv_blocks", LABELS | {"state": state})

    assert [blocks(state) for state in ("used", "cached", "free")] == [7, 4, 5]
    assert blocks("total") is None
    assert registry.get_sample_value("pdserve_worker_kv_blocks_capacity", LABELS) == 16


def test_counters_of_a_worker_are_shown() -> None:
    registry = scraped(WorkerView(INFO, LOAD, WorkerState.READY, "a", is_connected=True))
    names = (
        "preemptions",
        "swaps",
        "prefill_fallbacks",
        "kv_rejected",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "recomputed_tokens",
    )
    found = [registry.get_sample_value(f"pdserve_worker_{name}_total", LABELS) for name in names]
    assert found == [5, 2, 3, 1, 70, 30, 9]


def test_held_blocks_have_their_cause_and_a_batch_its_capacity() -> None:
    registry = scraped(WorkerView(INFO, LOAD, WorkerState.READY, "a", is_connected=True))
    causes = ("decoding", "prefilling", "pulling", "sending")
    held = [
        registry.get_sample_value("pdserve_worker_kv_blocks_held", LABELS | {"cause": cause})
        for cause in causes
    ]
    assert held == [6, 0, 1, 0]
    capacity = registry.get_sample_value("pdserve_worker_sequences_capacity", LABELS)
    assert capacity == INFO.profile.max_num_seqs


def test_a_worker_that_is_gone_shows_no_load() -> None:
    view = WorkerView(INFO, LOAD, WorkerState.UNREACHABLE, "a", is_connected=False, num_restarts=2)
    samples = [sample for metric in scraped(view).collect() for sample in metric.samples]
    assert [(s.name, s.labels, s.value) for s in samples] == [
        ("pdserve_worker_up", LABELS, 0),
        ("pdserve_worker_restarts_total", LABELS, 2),
    ]
