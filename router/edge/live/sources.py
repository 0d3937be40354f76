"""The parts of a router that the live page shows."""

from dataclasses import dataclass

from router.edge.block_ledgers import BlockLedgers
from router.edge.router_state import RouterState
from router.journey.live_requests import LiveRequests
from router.journey.metrics import RouterMetrics
from router.journey.work_ids import WorkIds


@dataclass(frozen=True, slots=True)
class Sources:
    """Owners of what the page shows. Read on the router's event loop alone."""

    model: str
    state: RouterState
    requests: LiveRequests
    metrics: RouterMetrics
    ledgers: BlockLedgers
    work_ids: WorkIds
