"""Waits for a state of a running deployment, with a deadline."""

import asyncio
import time

from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2
from tests.integration.support.processes import START_TIMEOUT_S
from tests.patience import WITHIN_S


def held_blocks(status: admin_pb2.StatusResponse) -> dict[str, int]:
    """Return the blocks that each worker holds."""
    return {w.name: w.load.blocks_total - w.load.blocks_free for w in status.workers}


async def until_nothing_is_held(client: AsyncClient) -> admin_pb2.StatusResponse:
    """Return the first status with no request in flight and no block held; fails after WITHIN_S."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        status = await client.status()
        if not status.router.requests_in_flight and not any(held_blocks(status).values()):
            return status
        assert time.monotonic() < deadline, f"still held: {held_blocks(status)} {status.router}"
        await asyncio.sleep(0.05)


async def workers(client: AsyncClient) -> dict[str, admin_pb2.WorkerStatus]:
    """Return what the router knows of its workers, by name."""
    return {worker.name: worker for worker in (await client.status()).workers}


async def until_back(client: AsyncClient, before: admin_pb2.WorkerStatus) -> admin_pb2.WorkerStatus:
    """Return a worker's next process once the router has it ready; fails after START_TIMEOUT_S.

    The supervisor says that a worker is back a moment before the router knows.
    """
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            after = (await workers(client))[before.name]
            is_ready = after.state == admin_pb2.WORKER_STATE_READY
            if is_ready and after.incarnation != before.incarnation:
                return after
            await asyncio.sleep(0.05)
