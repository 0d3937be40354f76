"""Comparison with llama.cpp's server on one quantized GGUF file, in turns.

Usage: python -m benchmarks.llama_cpp PYTHON, which has llama-cpp-python[server] built for this CPU.
"""

import asyncio
import statistics
import tempfile
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Annotated

import gguf
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.compared_systems import Scenario
from benchmarks.environment import write_result
from benchmarks.gguf_file import write_llama
from benchmarks.llama_cpp.servers import llama_cpp, pdserve, version
from benchmarks.llama_cpp.text_target import TextTarget
from benchmarks.load_generator import closed_loop, summarise
from benchmarks.workload import random_works
from common.cache_dir import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_SCENARIOS = (
    Scenario("1 user", 1, 6, (128, 256), (64, 64)),
    Scenario("16 users", 16, 48, (128, 256), (32, 64)),
)
_FIGURES = ("output tok/s", "TTFT p50 ms", "TPOT p50 ms", "ITL p99 ms")
_OURS, _PEER = "pdserve", "llama.cpp"
Results = dict[str, dict[str, dict[str, list[float]]]]  # by system, scenario, figure


def main(
    python: Annotated[Path, typer.Argument(help="Python with llama-cpp-python[server]")],
    kind: Annotated[str, typer.Option(help="Type of the file's weights")] = "Q4_0",
    rounds: Annotated[int, typer.Option(min=1, help="Times each server runs")] = 3,
) -> None:
    """Measure, print a table, write benchmarks/results/llama_cpp.json."""
    model = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{kind}.gguf"
        write_llama(model, file, gguf.GGMLQuantizationType[kind])
        results = asyncio.run(_measure(python, file, rounds))
    medians = {
        system: {
            scenario: {name: statistics.median(values) for name, values in figures.items()}
            for scenario, figures in scenarios.items()
        }
        for system, scenarios in results.items()
    }
    peer = asyncio.run(version(python))
    figures = {"llama-cpp-python": peer, "kind": kind, "medians": medians, "rounds": results}
    write_result("llama_cpp", figures)
    _print(medians)


async def _measure(python: Path, file: Path, rounds: int) -> Results:
    servers = {_OURS: partial(pdserve, file), _PEER: partial(llama_cpp, python, file)}
    results: Results = {}
    with Progress() as progress:
        task = progress.add_task("rounds", total=rounds * len(servers))
        for number in range(rounds):
            for name, serve in servers.items():
                for scenario, figures in (await _round(serve(), number)).items():
                    kept = results.setdefault(name, {}).setdefault(scenario, {})
                    for figure in _FIGURES:
                        kept.setdefault(figure, []).append(figures[figure])
                progress.advance(task)
    return results


async def _round(
    serving: AbstractAsyncContextManager[TextTarget], seed: int
) -> dict[str, dict[str, float]]:
    async with serving as target:
        await closed_loop(target, random_works(3, seed + 99, (16, 300), (4, 8)), 3, _nothing)
        return {
            scenario.name: summarise(
                await closed_loop(target, scenario.works(seed), scenario.users, _nothing)
            )
            for scenario in _SCENARIOS
        }


def _nothing() -> None:
    """Do nothing when a request has ended."""


def _print(medians: dict[str, dict[str, dict[str, float]]]) -> None:
    for scenario in _SCENARIOS:
        table = Table("system", *_FIGURES, title=scenario.name)
        peer = medians[_PEER][scenario.name]
        for system, scenarios in medians.items():
            figures = scenarios[scenario.name]
            cells = (f"{figures[name]:.1f} ({figures[name] / peer[name]:.2f})" for name in _FIGURES)
            table.add_row(system, *cells)
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
