"""A router's link to a scripted worker, through a relay that a test can break."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common.messages import SamplingParams, WorkFailure, WorkRequest
from common.rpc.worker_host import WorkerHost
from router.workers.link import WorkerLink
from router.workers.work_stream import WorkStream
from tests.integration.support.router_stack import HOST
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.integration.support.tcp_relay import Relay, relaying
from tests.patience import WITHIN_S

NEVER_S = 3600.0


@dataclass(slots=True)
class Rig:
    """A worker, a relay in front of it, and a router's link through the relay."""

    worker: ScriptedWorker
    host: WorkerHost
    relay: Relay
    link: WorkerLink

    def submit(self, name: str) -> WorkStream:
        """Submit a request of this name; return its stream."""
        stream = WorkStream(name, max_unread_tokens=10**6)
        self.link.submit(request(name), stream)
        return stream

    async def arrival(self, number: int = 1) -> None:
        """Wait until the worker has got so many requests."""
        await asyncio.to_thread(self.worker.wait_for_request, number)

    async def idle(self) -> None:
        """Wait until the worker has no request."""
        await asyncio.to_thread(self.worker.wait, lambda worker: not worker.live)

    async def cut(self) -> None:
        """Cut the connection; return when the link has noticed."""
        self.relay.lose()
        await until(lambda: not self.link.is_connected)

    async def connected(self) -> None:
        """Wait until the link is connected."""
        await until(lambda: self.link.is_connected)


@asynccontextmanager
async def linked(lease_s: float = NEVER_S) -> AsyncIterator[Rig]:
    """Yield a rig that is connected."""
    worker = ScriptedWorker()
    host = WorkerHost(worker, HOST, lease_s=lease_s)
    try:
        async with relaying(host.start()) as (address, relay):
            link = WorkerLink(address, lambda _: None, "me")
            link.start()
            try:
                await until(lambda: link.is_connected)
                yield Rig(worker, host, relay, link)
            finally:
                relay.heal()
                await link.close()
    finally:
        await asyncio.to_thread(host.stop, WITHIN_S)


@asynccontextmanager
async def direct(rig: Rig, router_id: str = "direct") -> AsyncIterator[WorkerLink]:
    """Yield a connected link to the rig's worker that passes by the relay."""
    host, port = rig.relay.target
    link = WorkerLink(f"{host}:{port}", lambda _: None, router_id)
    link.start()
    await until(lambda: link.is_connected)
    yield link
    await link.close()


def request(name: str) -> WorkRequest:
    """Return a request of this name."""
    return WorkRequest(name, 1, (1, 2), SamplingParams(0.0, 0, 100))


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until it is so; fails after WITHIN_S."""
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            await asyncio.sleep(0.002)


async def text_of(stream: WorkStream) -> str:
    """Read a stream to its end; check that each output begins where the last one ended."""
    text = ""
    async with asyncio.timeout(WITHIN_S):
        while True:
            output = await stream.next()
            assert output.failure is None, output.failure
            assert output.index == len(text)
            text += bytes(output.token_ids).decode()
            if output.finish_reason:
                return text


async def failure_of(stream: WorkStream) -> WorkFailure:
    """Return the failure with which a stream ends."""
    async with asyncio.timeout(WITHIN_S):
        while (failure := (await stream.next()).failure) is None:
            pass
    return failure
