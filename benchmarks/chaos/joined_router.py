"""Second router of a deployment: a process that a fault kills, and that is started anew at its address."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from benchmarks.pdserve_server import PDSERVE, ready_address
from pdserve.client import AsyncClient


@dataclass(slots=True)
class JoinedRouter:
    """`pdserve router`, and a client of it alone."""

    client: AsyncClient
    address: str  # of gRPC, host:port
    process: asyncio.subprocess.Process
    args: tuple[str, ...]
    settings: Mapping[str, str]
    log: IO[str]

    async def kill(self) -> None:
        """End it without a word. The address refuses connections from then on."""
        self.process.kill()
        await self.process.wait()

    async def start_again(self) -> None:
        """Start it at its address. Raises RuntimeError, TimeoutError if it is not ready."""
        port = self.address.rpartition(":")[2]
        self.process = await _start(self.args, port, self.settings, self.log)
        await ready_address(self.process)


@contextlib.asynccontextmanager
async def joined_router(
    log: IO[str], args: Sequence[str], settings: Mapping[str, str]
) -> AsyncGenerator[JoinedRouter]:
    """Run `pdserve router ARGS`, whose stderr goes to `log`; `settings` are environment variables."""
    process = await _start(args, "0", settings, log)
    router = None
    try:
        address = await ready_address(process)
        async with AsyncClient(address) as client:
            router = JoinedRouter(client, address, process, tuple(args), settings, log)
            yield router
    finally:
        last = router.process if router else process
        if last.returncode is None:
            last.send_signal(signal.SIGTERM)
        await last.wait()


async def _start(
    args: Sequence[str], port: str, settings: Mapping[str, str], log: IO[str]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(PDSERVE, "router", *args, "--grpc-port", port, "--http-port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        env=os.environ | settings,
    )
