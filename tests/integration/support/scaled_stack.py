"""Router over scripted workers that are added, removed and change their roles."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pdserve.v1 import admin_pb2
from tests.integration.support.router_stack import ALWAYS_PREFILL, Stack, serving
from tests.integration.support.scripted_fleet import ScriptedFleet
from tests.integration.support.scripted_worker import ScriptedWorker

DRAINING, READY = admin_pb2.WORKER_STATE_DRAINING, admin_pb2.WORKER_STATE_READY
UNREACHABLE = admin_pb2.WORKER_STATE_UNREACHABLE


@asynccontextmanager
async def scaling(
    model_dir: Path, *workers: ScriptedWorker
) -> AsyncIterator[tuple[Stack, ScriptedFleet]]:
    """Yield the router, and the fleet of its workers."""
    fleet = ScriptedFleet(*workers, max_workers=4)
    try:
        async with serving(model_dir, *workers, config=ALWAYS_PREFILL, fleet=fleet) as stack:
            yield stack, fleet
    finally:
        await asyncio.to_thread(fleet.close)


async def state_of(stack: Stack, name: str, state: int) -> None:
    """Wait until the router reports a worker in this state."""

    def is_so(status: admin_pb2.StatusResponse) -> bool:
        return any(w.name == name and w.state == state for w in status.workers)

    await stack.until(is_so)
