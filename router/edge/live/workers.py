"""Workers as the page shows them."""

from collections.abc import Sequence

from common.messages import Role, WorkerLoad
from router.edge.live.holders import Holders
from router.edge.live.rates import WorkerHistory, WorkerRates
from router.workers.view import WorkerView

MAX_LISTED = 32  # of each role


def listed(views: Sequence[WorkerView]) -> list[WorkerView]:
    """Return the first workers of each role, in their order."""
    by_role = ([view for view in views if view.info.role == role] for role in Role)
    return [view for of_role in by_role for view in of_role[:MAX_LISTED]]


def describe_workers(
    views: Sequence[WorkerView], history: WorkerHistory, holders: Holders
) -> list[dict[str, object]]:
    """Return each worker's state, load and rates."""
    return [_describe(view, history.rates(view.info.incarnation), holders) for view in views]


def _describe(view: WorkerView, rates: WorkerRates | None, holders: Holders) -> dict[str, object]:
    found: dict[str, object] = {
        "name": view.info.name,
        "role": str(view.info.role),
        "state": str(view.state),
        "note": view.note,
    }
    if not view.is_connected:  # what it said last is not so any more
        return {**found, "load": None, "rates": None, "blocks": None}
    load = view.load
    return {
        **found,
        "load": {
            "running": load.num_running,
            "waiting": load.num_waiting,
            "waiting_tokens": load.num_waiting_tokens,
            "steps": load.steps,
            "preemptions": load.preemptions,
            "block_size": load.block_size,
            "credit_bytes": load.credit_bytes,
            "credit_wanted_bytes": load.credit_wanted_bytes,
        },
        "rates": None if rates is None else _rounded(rates),
        "blocks": holders.blocks(view.info.name) or _plain_blocks(load),
    }


def _rounded(rates: WorkerRates) -> dict[str, float]:
    return {
        "steps_per_s": round(rates.steps, 2),
        "prefill_tokens_per_s": round(rates.prefill_tokens, 1),
        "output_tokens_per_s": round(rates.output_tokens, 1),
        "kv_bytes_per_s": round(rates.kv_bytes),
    }


def _plain_blocks(load: WorkerLoad) -> dict[str, int]:
    """Return the blocks without their causes, for a worker that has not told them."""
    return {
        "used": load.blocks_total - load.blocks_free,
        "cached": load.blocks_cached,
        "free": load.blocks_free - load.blocks_cached,
    }
