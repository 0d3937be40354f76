"""Metrics of the workers' last reports, read when scraped."""

from collections.abc import Callable, Iterable
from operator import attrgetter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.messages import WorkerLoad
from router.workers.view import WorkerState, WorkerView

_LABELS = ("worker", "role")
_GAUGES = {  # field of WorkerLoad: name behind "pdserve_", text
    "num_running": ("worker_sequences_running", "Sequences in the batch"),
    "num_waiting": ("worker_sequences_waiting", "Sequences that are not in the batch yet"),
    "num_waiting_tokens": ("worker_tokens_waiting", "Prompt tokens that wait there"),
    "blocks_total": ("worker_kv_blocks_capacity", "KV blocks in all states together"),
}
_COUNTERS = {
    "steps": ("worker_steps", "Engine steps"),
    "prefill_tokens": ("worker_prefill_tokens", "Prompt tokens that it computed"),
    "output_tokens": ("worker_generation_tokens", "Tokens that it generated"),
    "recomputed_tokens": (
        "worker_recomputed_tokens",
        "Prompt tokens that had run before: here, before a preemption, or on a lost worker",
    ),
    "preemptions": ("worker_preemptions", "Sequences that gave their blocks back and came again"),
    "swaps": ("worker_swaps", "Preemptions whose KV went to host memory"),
    "kv_bytes": ("worker_kv_bytes", "KV bytes that it sent or took"),
    "kv_rejected": ("worker_kv_rejected", "Pieces of KV that were damaged or not its own"),
    "prefill_fallbacks": (
        "worker_prefill_fallbacks",
        "Prompts that decode ran itself after a hand-off failed",
    ),
    "prefix_query_tokens": (
        "worker_prefix_cache_queries",
        "Prompt tokens that were looked up in the prefix cache",
    ),
    "prefix_hit_tokens": (
        "worker_prefix_cache_hits",
        "Prompt tokens that the prefix cache had",
    ),
    "spilled_bytes": (
        "object_store_spilled_bytes",
        "Written to disk by the object store of the worker's node: 0 unless it was full",
    ),
}


_CAUSES = ("decoding", "prefilling", "pulling", "sending")


class WorkerCollector(Collector):
    """Metrics of the workers. One without a connection has only those that the router itself knows."""

    def __init__(self, views: Callable[[], list[WorkerView]]) -> None:
        self._views = views

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of all workers now."""
        views = self._views()
        yield from _states(views)
        # what a worker said last is not so any more once it is gone
        connected = [view for view in views if view.is_connected]
        yield _capacity(connected)
        loads = [(_key(view), view.load) for view in connected]
        for field, (name, text) in _GAUGES.items():
            yield _family(GaugeMetricFamily(f"pdserve_{name}", text, labels=_LABELS), field, loads)
        for field, (name, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"pdserve_{name}", text, labels=_LABELS)
            yield _family(counter, field, loads)
        yield _blocks(loads)
        yield _held(loads)
        yield _credit(loads)


def _key(view: WorkerView) -> tuple[str, str]:
    return (view.info.name, str(view.info.role))


def _states(views: list[WorkerView]) -> Iterable[Metric]:
    """Return what the router itself knows of each worker, also without a connection."""
    up = GaugeMetricFamily("pdserve_worker_up", "1 while ready", labels=_LABELS)
    restarts = CounterMetricFamily(
        "pdserve_worker_restarts", "Processes that took a worker's name", labels=_LABELS
    )
    for view in views:
        up.add_metric(_key(view), float(view.state is WorkerState.READY))
        restarts.add_metric(_key(view), view.num_restarts)
    return (up, restarts)


def _capacity(views: list[WorkerView]) -> Metric:
    capacity = GaugeMetricFamily(
        "pdserve_worker_sequences_capacity", "The most sequences in the batch", labels=_LABELS
    )
    for view in views:
        capacity.add_metric(_key(view), view.info.profile.max_num_seqs)
    return capacity


def _family(
    family: GaugeMetricFamily | CounterMetricFamily,
    field: str,
    loads: list[tuple[tuple[str, str], WorkerLoad]],
) -> Metric:
    """Fill a metric with one field of every load."""
    read = attrgetter(field)
    for key, load in loads:
        family.add_metric(key, read(load))
    return family


def _blocks(loads: list[tuple[tuple[str, str], WorkerLoad]]) -> Metric:
    """Return the blocks by state; each block has one, so that they add up to the capacity."""
    blocks = GaugeMetricFamily(
        "pdserve_worker_kv_blocks", "KV blocks by state", labels=(*_LABELS, "state")
    )
    for key, load in loads:
        blocks.add_metric((*key, "used"), load.blocks_total - load.blocks_free)
        blocks.add_metric((*key, "cached"), load.blocks_cached)
        blocks.add_metric((*key, "free"), load.blocks_free - load.blocks_cached)
    return blocks


def _held(loads: list[tuple[tuple[str, str], WorkerLoad]]) -> Metric:
    """Return the blocks that sequences hold, by cause; a shared block counts for each holder."""
    held = GaugeMetricFamily(
        "pdserve_worker_kv_blocks_held", "KV blocks by cause", labels=(*_LABELS, "cause")
    )
    for key, load in loads:
        for cause in _CAUSES:
            held.add_metric((*key, cause), getattr(load, f"blocks_{cause}"))
    return held


def _credit(loads: list[tuple[tuple[str, str], WorkerLoad]]) -> Metric:
    credit = GaugeMetricFamily(
        "pdserve_worker_kv_credit_bytes", "KV on its way to decode", labels=(*_LABELS, "state")
    )
    for key, load in loads:
        credit.add_metric((*key, "total"), load.credit_bytes)
        credit.add_metric((*key, "wanted"), load.credit_wanted_bytes)
    return credit
