"""Process of `pdserve serve` that is measured."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2

PDSERVE = str(Path(sys.executable).parent / "pdserve")
_START_TIMEOUT_S = 300.0  # on a busy machine


@dataclass(frozen=True, slots=True)
class Served:
    """A deployment that is ready."""

    address: str  # of gRPC, host:port
    router_pid: int


@contextlib.asynccontextmanager
async def serving(*args: str, **settings: str) -> AsyncGenerator[str]:
    """Run `deployment` with a router that lets all requests wait, whatever the TTFT target.

    Yields the gRPC address.
    """
    settings.setdefault("PDSERVE_ROUTER__MAX_WAIT_S", "0")
    async with deployment(*args, **settings) as served:
        yield served.address


@contextlib.asynccontextmanager
async def deployment(*args: str, **settings: str) -> AsyncGenerator[Served]:
    """Start `pdserve serve ARGS` on free ports; stop it afterwards.

    `settings` are environment variables, such as PDSERVE_ENGINE__SWAP_GIB.
    """
    async with logged_deployment(None, args, settings) as served:
        yield served


@contextlib.asynccontextmanager
async def logged_deployment(
    log: IO[str] | None, args: Sequence[str], settings: Mapping[str, str]
) -> AsyncGenerator[Served]:
    """Run as `deployment` does; what the server writes to stderr goes to `log`, if given."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {**settings}
    process = await asyncio.create_subprocess_exec(
        *(PDSERVE, "serve", *args, "--grpc-port", "0", "--http-port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        env=environment,
    )
    try:
        yield Served(await ready_address(process), process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def ready_address(process: asyncio.subprocess.Process) -> str:
    """Return the gRPC address of a router when it is ready. Raises RuntimeError, TimeoutError."""
    if process.stdout is None:
        raise RuntimeError("no pipe")
    line = b""
    async with asyncio.timeout(_START_TIMEOUT_S):
        while b"pdserve ready" not in line:
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError("pdserve ended before it was ready")
    return line.decode().split("grpc=")[1].split()[0]


async def first_token_after_start(model: str) -> float:
    """Return the seconds from the start of the command to the first token of a first request."""
    start_s = time.perf_counter()
    async with serving(model) as address, AsyncClient(address) as client:
        sampling = inference_pb2.SamplingParams(max_tokens=1)
        async for _ in client.stream([("user", "Hello")], sampling):
            return time.perf_counter() - start_s
    raise RuntimeError("no token came")
