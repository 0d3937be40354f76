"""Real router over scripted workers, all in this process, with gRPC on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2, inference_pb2
from router.app import Router
from router.scaling.fleet import Fleet
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S

HOST = "127.0.0.1"
MODEL = "tiny"
# hands off every prompt, also those that the default policy would run locally
ALWAYS_PREFILL = RouterConfig(policy="least_loaded")
# ends requests at once when the last decode worker is gone
NO_WAIT = RouterConfig(max_outage_s=0)


@dataclass(slots=True)
class Stack:
    """Router, workers and client that a test drives."""

    router: Router
    address: str
    client: AsyncClient
    hosts: list[WorkerHost] = field(default_factory=list)

    @property
    def http(self) -> str:
        """Return the HTTP port's URL."""
        return f"http://{HOST}:{self.router.http_port}"

    async def lose(self, number: int) -> None:
        """End a worker's server, as if its process died."""
        await asyncio.to_thread(self.hosts[number].stop, WITHIN_S)

    async def until(
        self, is_so: Callable[[admin_pb2.StatusResponse], bool]
    ) -> admin_pb2.StatusResponse:
        """Return the router's first status for which `is_so` is true; fails after WITHIN_S."""
        async with asyncio.timeout(WITHIN_S):
            while not is_so(status := await self.client.status()):
                await asyncio.sleep(0.005)
        return status

    async def until_idle(self) -> admin_pb2.Outcomes:
        """Return the totals when nothing is in flight."""
        status = await self.until(lambda status: not status.router.requests_in_flight)
        return status.router.totals


@asynccontextmanager
async def routing(
    model_dir: Path,
    addresses: Sequence[str],
    config: RouterConfig | None = None,
    fleet: Fleet | None = None,
    tracing: Tracing = NO_TRACING,
) -> AsyncIterator[Stack]:
    """Yield a ready router over workers at these addresses."""
    config = config or RouterConfig()
    router = Router(MODEL, model_dir, addresses, config, fleet, tracing=tracing)
    try:
        port = await router.start(HOST, 0, 0, WITHIN_S)
        address = f"{HOST}:{port}"
        async with AsyncClient(address, retries=False) as client:
            yield Stack(router, address, client)
    finally:
        await router.stop(0.0)


@asynccontextmanager
async def serving(
    model_dir: Path,
    *workers: ScriptedWorker,
    config: RouterConfig | None = None,
    fleet: Fleet | None = None,
    tracing: Tracing = NO_TRACING,
) -> AsyncIterator[Stack]:
    """Yield a ready router and serve its workers."""
    hosts = [WorkerHost(worker, HOST) for worker in workers]
    try:
        addresses = [host.start() for host in hosts]
        async with routing(model_dir, addresses, config, fleet, tracing) as stack:
            stack.hosts = hosts
            yield stack
    finally:
        for host in hosts:
            await asyncio.to_thread(host.stop, WITHIN_S)


async def collect(
    client: AsyncClient, prompt: str, *, request_id: str = "", **sampling: object
) -> list[inference_pb2.GenerateResponse]:
    """Return all responses to one prompt."""
    params = inference_pb2.SamplingParams(**sampling)  # type: ignore[arg-type]
    return [part async for part in client.stream(prompt, params, request_id=request_id)]


def text_of(responses: Sequence[inference_pb2.GenerateResponse]) -> str:
    """Return the complete text."""
    return "".join(response.text for response in responses)
