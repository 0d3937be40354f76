"""Engine steps alone, and a cold start of the server.

Measures step times, activation memory and time to first token.
Usage: python -m benchmarks.engine_step [--repeats N]
"""

import asyncio
import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.environment import describe, write_result
from benchmarks.host_work import host_work
from benchmarks.pdserve_server import first_token_after_start
from benchmarks.timed_steps import (
    CHUNK,
    CONTEXT,
    build_warm,
    decode_ms,
    prefill_ms,
    prefilled,
    release,
)
from common.cache_dir import default_cache_dir
from common.config import EngineConfig
from common.engine.build import Engine
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

Figures = dict[str, float]


def main(repeats: Annotated[int, typer.Option(min=3, help="Samples per figure")] = 7) -> None:
    """Measure and write benchmarks/results/engine_step.json."""
    console = Console()
    model_dir = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    cores = int(str(describe()["cores"]))
    figures: dict[str, Figures] = {}
    for threads in sorted({1, cores}):
        engine = build_warm(model_dir, EngineConfig(), threads)
        figures[f"{threads} thread(s)"] = _measure_steps(engine, repeats)
    figures["host work"] = host_work(build_warm(model_dir, EngineConfig(), cores), model_dir, 64)
    figures["activation MiB"] = _measure_memory(build_warm(model_dir, EngineConfig(), cores))
    figures["server"] = _measure_start(model_dir)
    path = write_result("engine_step", figures)
    _print(console, figures)
    console.print(f"written to {path.relative_to(Path.cwd())}")


def _measure_steps(engine: Engine, repeats: int) -> Figures:
    figures: Figures = {}
    for batch_size in track((1, 8, 32), description="decode steps"):
        figures[f"decode {batch_size} at context {CONTEXT}, ms"] = decode_ms(engine, batch_size)
    for length in track((512, 2000), description="prefill"):
        samples = [prefill_ms(engine, length) for _ in range(repeats)]
        figures[f"prefill {length}, ms"] = statistics.median(samples)
    return figures


def _measure_memory(engine: Engine) -> Figures:
    """Return the peak of live tensor memory in a whole prefill, without the KV cache."""
    return {
        f"prefill {length} in chunks of {CHUNK}": _peak_mib(engine, length)
        for length in track((1000, 2000, 4000, 8000), description="activation memory")
    }


def _measure_start(model_dir: Path) -> Figures:
    samples = [
        asyncio.run(first_token_after_start(DEFAULT_ALIAS))
        for _ in track(range(3), description="cold starts")
    ]
    return {"start of serve to first token, s": statistics.median(samples)}


def _peak_mib(engine: Engine, length: int) -> float:
    # acc_events: without it, newer profilers drop earlier cycles' events
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        release(engine, [prefilled(engine, length, 1)])
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


def _print(console: Console, figures: dict[str, Figures]) -> None:
    table = Table("what", "figure", "value")
    for group, values in figures.items():
        for name, value in values.items():
            table.add_row(group, name, f"{value:.1f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
