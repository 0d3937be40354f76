"""Cost of the optional metrics: an objective, tenants, and vLLM's names, scraped once a second.

Usage: python -m benchmarks.router.metrics_cost. Each round runs all arms, each with a router of its
own; every second round in reverse. "default" has the default settings and is not scraped. "scraped" is,
and "all" has every set of metrics besides.
"""

import asyncio
import statistics
import urllib.request
from functools import partial
from pathlib import Path

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.processes import running
from benchmarks.router.throughput import measure_throughput, stream_grpc
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from pdserve.v1 import inference_pb2_grpc

_ARMS: dict[str, tuple[tuple[str, ...], bool]] = {  # flags of the router, and whether it is scraped
    "default": ((), False),
    "scraped": ((), True),
    "all": (("--all-metrics",), True),
}
_SCRAPE_S = 1.0
_FIGURE = "gRPC: tokens per second of the router's processor time"


def main(rounds: int = 4) -> None:
    """Measure, print a table, write benchmarks/results/metrics_cost.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in _ARMS}
    for number in range(rounds):
        order = list(_ARMS) if number % 2 == 0 else list(reversed(_ARMS))
        for arm in order:
            results[arm].append(asyncio.run(_measure(model_dir, arm)))
    medians = {
        arm: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for arm, runs in results.items()
    }
    costs = {arm: 1 - medians[arm][_FIGURE] / medians["default"][_FIGURE] for arm in _ARMS}
    write_result("metrics_cost", {"rounds": rounds, "medians": medians, "costs": costs})
    table = Table("arm", "tokens/s of CPU", "cost", title=f"medians of {rounds} rounds")
    for arm, cost in costs.items():
        table.add_row(arm, f"{medians[arm][_FIGURE]:.0f}", f"{cost:+.1%}")
    Console().print(table)


async def _measure(model_dir: Path, arm: str) -> dict[str, float]:
    flags, is_scraped = _ARMS[arm]
    async with (
        running(model_dir, *flags) as router,
        grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        scraping = asyncio.create_task(_scrape(router.openai_port)) if is_scraped else None
        try:
            return await measure_throughput("gRPC", partial(stream_grpc, stub), router)
        finally:
            if scraping is not None:
                scraping.cancel()


async def _scrape(port: int) -> None:
    while True:
        await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        await asyncio.sleep(_SCRAPE_S)


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:
        return len(response.read())


if __name__ == "__main__":
    typer.run(main)
