"""Processes of the benchmark: a router on the first core, worker doubles on the others."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.router.worker_double import NUM_WORKERS


@dataclass(slots=True)
class RouterProcess:
    """A running router process, and its pipes."""

    process: asyncio.subprocess.Process
    port: int = 0
    openai_port: int = 0
    http_port: int = 0

    async def resident_bytes(self) -> int:
        """Return the process's resident memory now."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("no pipe")
        self.process.stdin.write(b"\n")
        return int(await asyncio.wait_for(self.process.stdout.readline(), 30))

    def cpu_s(self) -> float:
        """Return the processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Doubles:
    """Running worker doubles, and the core that is left to routers."""

    addresses: list[str]
    free_core: int


@contextlib.asynccontextmanager
async def running(
    model_dir: Path, *options: str, num_workers: int = NUM_WORKERS
) -> AsyncGenerator[RouterProcess]:
    """Run a router over so many of the worker doubles; `options` are those of router_process."""
    async with (
        _worker_doubles(model_dir, num_workers) as doubles,
        _router(model_dir, options, doubles) as router,
    ):
        yield router


@contextlib.asynccontextmanager
async def running_together(
    model_dir: Path, num_routers: int
) -> AsyncGenerator[list[RouterProcess]]:
    """Run routers with one OpenAI port over the same worker doubles."""
    async with _worker_doubles(model_dir) as doubles, contextlib.AsyncExitStack() as stack:
        routers: list[RouterProcess] = []
        for _ in range(num_routers):
            port = routers[0].openai_port if routers else 0
            starting = _router(model_dir, [f"--shared-openai-port={port}"], doubles)
            routers.append(await stack.enter_async_context(starting))
        yield routers


@contextlib.asynccontextmanager
async def _worker_doubles(
    model_dir: Path, num_workers: int = NUM_WORKERS
) -> AsyncGenerator[_Doubles]:
    """Run worker doubles; they and this process have all cores but the first."""
    first, *others = cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or [first])
    doubles = await _start(f"{__package__}.worker_double", str(model_dir))
    try:
        if doubles.stdout is None:
            raise RuntimeError("no pipe")
        lines = [(await doubles.stdout.readline()).decode() for _ in range(NUM_WORKERS)]
        yield _Doubles([line.strip() for line in lines[:num_workers]], first)
    finally:
        doubles.terminate()
        await doubles.wait()
        os.sched_setaffinity(0, cores)


@contextlib.asynccontextmanager
async def _router(
    model_dir: Path, options: Sequence[str], doubles: _Doubles
) -> AsyncGenerator[RouterProcess]:
    """Run a router on the core that is free."""
    others, args = os.sched_getaffinity(0), (str(model_dir), *options, *doubles.addresses)
    os.sched_setaffinity(0, [doubles.free_core])
    process = await _start(f"{__package__}.router_process", *args)
    os.sched_setaffinity(0, others)
    router = RouterProcess(process)
    try:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        router.port = int(await asyncio.wait_for(process.stdout.readline(), 60))
        router.openai_port = int(await asyncio.wait_for(process.stdout.readline(), 60))
        router.http_port = int(await asyncio.wait_for(process.stdout.readline(), 60))
        yield router
    finally:
        process.terminate()
        await process.wait()


async def _start(module: str, *args: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *args, stdin=pipe, stdout=pipe
    )
