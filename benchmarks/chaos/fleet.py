"""Running deployment under faults: its workers, its processes, the questions that it has."""

import asyncio
import time
from dataclasses import dataclass, field

import psutil

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.joined_router import JoinedRouter
from pdserve.client import AsyncClient
from pdserve.errors import PdserveError
from pdserve.v1 import admin_pb2

READY = admin_pb2.WORKER_STATE_READY
PREFILL, DECODE = admin_pb2.WORKER_ROLE_PREFILL, admin_pb2.WORKER_ROLE_DECODE
_LOOK_S = 0.1
_LOOKS = 100  # a prefill worker has a question for moments only


@dataclass(slots=True)
class Fleet:
    """A deployment that faults strike."""

    client: AsyncClient
    address: str  # of its router
    pid: int  # of `pdserve serve`
    running: dict[str, Asking] = field(default_factory=dict)  # by request id
    seen: set[psutil.Process] = field(default_factory=set)  # every process so far
    joined: JoinedRouter | None = None  # half of the users go there first

    @property
    def routers(self) -> list[AsyncClient]:
        """Clients of each router."""
        return [self.client, self.joined.client] if self.joined else [self.client]

    def processes(self) -> list[psutil.Process]:
        """Return the deployment's processes of this moment, and keep them in `seen`."""
        pids = [self.pid, self.joined.process.pid] if self.joined else [self.pid]
        found = []
        for pid in pids:
            root = psutil.Process(pid)
            found += [root, *root.children(recursive=True)]
        self.seen.update(found)
        return found

    def gcs_address(self) -> str:
        """Return the address of the deployment's private Ray. Raises StopIteration without one."""
        raylet = next(one for one in self.processes() if one.name() == "raylet")
        given = next(part for part in raylet.cmdline() if part.startswith("--gcs-address="))
        return given.partition("=")[2]

    def process(self, name: str) -> psutil.Process:
        """Return the process of one of Ray's actors. Raises LookupError."""
        for process in self.processes():
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                    return process
            except psutil.Error:  # it ended while we looked
                continue
        raise LookupError(name)

    async def workers(self, *roles: int) -> list[admin_pb2.WorkerStatus]:
        """Return the workers of these roles; of all, without any."""
        status = await self.client.status(timeout=30.0)
        return [worker for worker in status.workers if not roles or worker.role in roles]

    async def askings_at(self, *names: str) -> list[Asking]:
        """Return the questions that these workers have."""
        blocks = await self.client.blocks(timeout=30.0)
        held = {
            holder.request_id.partition("#")[0]
            for worker in blocks.workers
            if worker.worker in names
            for holder in worker.ledger.holders
        }
        return [asking for name, asking in list(self.running.items()) if name in held]

    async def until_busy(self, *names: str) -> list[Asking]:
        """Return the questions that these workers have, as soon as there is one; none in vain."""
        for _ in range(_LOOKS):
            if found := await self.askings_at(*names):
                return found
        return []

    async def until_whole(self, replaced: dict[str, str], timeout_s: float) -> None:
        """Wait until all workers are ready, these in other incarnations. Raises TimeoutError."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self.processes()
            workers = await self._workers_if_any()
            if workers and all(
                one.state == READY and replaced.get(one.name) != one.incarnation for one in workers
            ):
                return
            if time.monotonic() > deadline_s:
                states = {one.name: (one.state, one.note) for one in workers}
                raise TimeoutError(f"not all ready after {timeout_s} s: {states}")
            await asyncio.sleep(_LOOK_S)

    async def until_at_rest(self, timeout_s: float) -> admin_pb2.StatusResponse:
        """Return the first status with no request and no held block; else the last in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            status = await self.client.status(timeout=30.0)
            is_at_rest = not status.router.requests_in_flight and not any(held(status).values())
            if is_at_rest or time.monotonic() > deadline_s:
                return status
            await asyncio.sleep(_LOOK_S)

    async def _workers_if_any(self) -> list[admin_pb2.WorkerStatus]:
        try:
            return await self.workers()
        except PdserveError:  # the router is busy; the caller's deadline counts
            return []


def held(status: admin_pb2.StatusResponse) -> dict[str, int]:
    """Return the number of blocks that each worker holds."""
    return {w.name: w.load.blocks_total - w.load.blocks_free for w in status.workers}


def adds_up(totals: admin_pb2.Outcomes) -> bool:
    """Return True if every accepted request has ended in one way."""
    return totals.accepted == totals.completed + totals.cancelled + totals.failed
