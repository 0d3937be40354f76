"""Cost of the live page: a router with 64 running sequences, the page closed and open in turns.

Usage: python -m benchmarks.router.live_page. The router has the first core; the worker double sends
16 tokens a second to each sequence, so that throughput is given and the router's time is the cost.
"""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.processes import RouterProcess, running
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from pdserve.v1 import inference_pb2, inference_pb2_grpc

STREAMS = 64
_TOKENS = 8000
_SETTLED_TOKENS = 25 * STREAMS  # two seconds, on a machine with nothing else to do
_START_S = 60.0


@dataclass(slots=True)
class Counted:
    """Tokens that came to the clients, and frames that came to the page."""

    tokens: int = 0
    frames: int = 0


def main(rounds: int = 5, seconds: float = 8.0, pages: int = 1) -> None:
    """Measure in turns, print a table, write benchmarks/results/live_page.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    found = asyncio.run(_measure(model_dir, rounds, seconds, pages))
    medians = {name: statistics.median(values) for name, values in found.items()}
    closed, opened = (medians[f"{name}: router, percent of a core"] for name in ("closed", "open"))
    medians["the page's cost, percent of a core"] = opened - closed
    write_result(
        "live_page",
        {"rounds": rounds, "seconds": seconds, "pages": pages, "medians": medians, "each": found},
    )
    table = Table("figure", "median", title=f"{STREAMS} running sequences, {pages} page(s) or none")
    for name, value in medians.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)


async def _measure(
    model_dir: Path, rounds: int, seconds: float, pages: int
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    async with streaming(model_dir) as (router, counted):
        for _ in range(rounds):
            _add(found, "closed", await _phase(router, counted, seconds))
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(pages):
                    await stack.enter_async_context(_page(router.http_port, counted))
                _add(found, "open", await _phase(router, counted, seconds))
    return found


@contextlib.asynccontextmanager
async def streaming(model_dir: Path) -> AsyncGenerator[tuple[RouterProcess, Counted]]:
    """Run a router with STREAMS streams; raises TimeoutError if they do not begin."""
    counted = Counted()
    async with (
        running(model_dir, num_workers=1) as router,
        grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        streams = [asyncio.create_task(stream(stub, counted)) for _ in range(STREAMS)]
        async with asyncio.timeout(_START_S):
            while counted.tokens < _SETTLED_TOKENS:
                await asyncio.sleep(0.1)
        yield router, counted
        for one in streams:
            one.cancel()


async def _phase(router: RouterProcess, counted: Counted, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    start_s, cpu_s, tokens, frames = loop.time(), router.cpu_s(), counted.tokens, counted.frames
    await asyncio.sleep(seconds)
    wall_s, busy_s = loop.time() - start_s, router.cpu_s() - cpu_s
    return {
        "router, percent of a core": 100 * busy_s / wall_s,
        "tokens/s": (counted.tokens - tokens) / wall_s,
        "frames/s": (counted.frames - frames) / wall_s,
    }


def _add(found: dict[str, list[float]], state: str, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        found.setdefault(f"{state}: {name}", []).append(value)


async def stream(stub: "inference_pb2_grpc.InferenceAsyncStub", counted: Counted) -> None:
    sampling = inference_pb2.SamplingParams(max_tokens=_TOKENS, ignore_eos=True)
    tokens = inference_pb2.TokenPrompt(token_ids=range(1, 17))
    request = inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling)
    async for response in stub.Generate(request):
        counted.tokens += len(response.token_ids)


@contextlib.asynccontextmanager
async def _page(port: int, counted: Counted) -> AsyncGenerator[None]:
    """Read the page's stream while the block runs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    writer.write(b"GET /live/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    reading = asyncio.create_task(_count_frames(reader, counted))
    try:
        yield
    finally:
        reading.cancel()
        writer.close()


async def _count_frames(reader: asyncio.StreamReader, counted: Counted) -> None:
    async for line in reader:
        counted.frames += line.startswith(b"data: ")


if __name__ == "__main__":
    typer.run(main)
