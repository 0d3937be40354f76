"""A crowd at the live page: a router's memory and processor time with 0, 1, 32 and 1,000 browsers.

Usage: python -m benchmarks.router.live_crowd. All browsers come at once. Those that the router has no
place for are refused, and ask again 3 s later, as the page's script does. 64 requests run meanwhile.
The memory of each phase is that of the same router, in this order, and once more with nobody.
"""

import asyncio
import contextlib
import resource
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.live_page import STREAMS, Counted, streaming
from benchmarks.router.processes import RouterProcess
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_BROWSERS = (0, 1, 32, 1000, 0)
_RETRY_S = 3.0  # of live.js
_ASK = b"GET /live/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(slots=True)
class _Seen:
    """Counts of what all browsers saw."""

    frames: int = 0
    refusals: int = 0
    failures: int = 0  # connections without an answer


def main(seconds: float = 10.0) -> None:
    """Measure, print a table, write benchmarks/results/live_crowd.json."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    phases = asyncio.run(_measure(model_dir, seconds))
    write_result("live_crowd", {"seconds": seconds, "running": STREAMS, "phases": phases})
    table = Table(*phases[0], title=f"{STREAMS} running sequences")
    for phase in phases:
        table.add_row(*(f"{value:.4g}" for value in phase.values()))
    Console().print(table)


async def _measure(model_dir: Path, seconds: float) -> list[dict[str, float]]:
    async with streaming(model_dir) as (router, counted):
        phases = []
        for num_browsers in _BROWSERS:
            seen = _Seen()
            async with _crowd(router.http_port, num_browsers, seen):
                phases.append(
                    {"browsers": num_browsers, **await _phase(router, counted, seen, seconds)}
                )
    return phases


async def _phase(
    router: RouterProcess, counted: Counted, seen: _Seen, seconds: float
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    start_s, cpu_s, tokens = loop.time(), router.cpu_s(), counted.tokens
    await asyncio.sleep(seconds)
    wall_s = loop.time() - start_s
    return {
        "router, MB": await router.resident_bytes() / 1e6,
        "router, percent of a core": 100 * (router.cpu_s() - cpu_s) / wall_s,
        "tokens/s": (counted.tokens - tokens) / wall_s,
        "frames/s": seen.frames / wall_s,
        "refusals/s": seen.refusals / wall_s,
        "no answer": seen.failures,
    }


@contextlib.asynccontextmanager
async def _crowd(port: int, num_browsers: int, seen: _Seen) -> AsyncGenerator[None]:
    browsers = [asyncio.create_task(_browse(port, seen)) for _ in range(num_browsers)]
    try:
        yield
    finally:
        for browser in browsers:
            browser.cancel()
        await asyncio.gather(*browsers, return_exceptions=True)


async def _browse(port: int, seen: _Seen) -> None:
    while True:
        try:
            await _look(port, seen)
        except (OSError, asyncio.IncompleteReadError):
            seen.failures += 1
        await asyncio.sleep(_RETRY_S)


async def _look(port: int, seen: _Seen) -> None:
    """Read one answer to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        writer.write(_ASK)
        head = await reader.readuntil(b"\r\n\r\n")
        seen.refusals += b" 503 " in head
        async for line in reader:
            seen.frames += line.startswith(b"data: ")
    finally:
        writer.close()


if __name__ == "__main__":
    typer.run(main)
