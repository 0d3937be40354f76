"""The sampler of the live page: what the router knows, four times a second, as JSON.

It runs only while somebody looks. One sampler serves all browsers.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator

from router.admission.admission import Admission, Outcome
from router.edge.live.holders import Holders
from router.edge.live.percentiles import LatencyWindow
from router.edge.live.rates import WorkerHistory
from router.edge.live.requests import describe_requests
from router.edge.live.sources import Sources
from router.edge.live.workers import describe_workers, listed

INTERVAL_S = 0.25


class Sampler:
    """Makes frames of what the router knows. Each has the rates since earlier ones."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._history = WorkerHistory()
        self._holders = Holders(sources.ledgers)
        self._ttft = LatencyWindow(sources.metrics.ttft)
        self._itl = LatencyWindow(sources.metrics.itl)

    def sample(self) -> bytes:
        """Return one frame, a JSON object in UTF-8 without line breaks."""
        now_s, sources = time.monotonic(), self._sources
        all_views = sources.state.pool.views()
        views = self._holders.views = listed(all_views)
        self._history.note(now_s, views)
        self._ttft.look(now_s)
        self._itl.look(now_s)
        requests = describe_requests(sources, self._holders)
        frame = {
            "at_s": round(now_s, 3),
            "model": sources.model,
            "router": _describe_account(sources.state.admission),
            "ttft": self._ttft.describe(),
            "itl": self._itl.describe(),
            "workers": describe_workers(views, self._history, self._holders),
            "omitted_workers": len(all_views) - len(views),
            "requests": requests,
            "omitted_requests": len(sources.requests) - len(requests),
        }
        return json.dumps(frame, separators=(",", ":")).encode()

    async def follow_holders(self) -> None:
        """Ask the workers for the causes of their KV use, until cancelled."""
        await self._holders.follow()


async def frames(sources: Sources, interval_s: float = INTERVAL_S) -> AsyncGenerator[bytes]:
    """Yield frames until closed."""
    sampler = Sampler(sources)
    yield sampler.sample()
    following = asyncio.create_task(sampler.follow_holders())
    try:
        while True:
            await asyncio.sleep(interval_s)
            if following.done():
                following.result()  # raises what ended it
            yield sampler.sample()
    finally:
        following.cancel()


def _describe_account(admission: Admission) -> dict[str, object]:
    return {
        "in_flight": admission.num_in_flight,
        "queued": admission.num_queued,
        "accepted": admission.accepted,
        "completed": admission.ended[Outcome.COMPLETED],
        "cancelled": admission.ended[Outcome.CANCELLED],
        "failed": admission.ended[Outcome.FAILED],
        "rejected": admission.rejected,
        "is_draining": admission.is_draining,
    }
