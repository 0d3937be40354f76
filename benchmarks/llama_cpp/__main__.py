"""Comparison with llama.cpp's servers on one quantized GGUF file, in turns.

Usage: python -m benchmarks.llama_cpp [--llama-server BINARY] [--python PYTHON], one or both, built for
this CPU. PYTHON has llama-cpp-python[server].
"""

import asyncio
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Annotated

import gguf
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.compared_systems import Figures, Scenario
from benchmarks.environment import write_result
from benchmarks.gguf_file import write_llama
from benchmarks.llama_cpp import servers
from benchmarks.llama_cpp.text_target import TextTarget
from benchmarks.load_generator import closed_loop, summarise
from benchmarks.workload import random_works
from common.cache_dir import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_USERS = 16
_SCENARIOS = (
    Scenario("1 user", 1, 6, (128, 256), (64, 64)),
    Scenario(f"{_USERS} users", _USERS, 48, (128, 256), (32, 64)),
)
_FIGURES = ("output tok/s", "TTFT p50 ms", "TPOT p50 ms", "ITL p99 ms")
_OURS = "pdserve"
Serve = Callable[[Path], AbstractAsyncContextManager[TextTarget]]
Rounds = dict[str, dict[str, list[float]]]  # of a system, by scenario and figure


def main(
    llama_server: Annotated[Path | None, typer.Option(help="llama.cpp's own server")] = None,
    python: Annotated[Path | None, typer.Option(help="Has llama-cpp-python[server]")] = None,
    kind: Annotated[str, typer.Option(help="Type of the file's weights")] = "Q4_0",
    rounds: Annotated[int, typer.Option(min=1, help="Times each server runs")] = 3,
) -> None:
    """Measure, print a table, write benchmarks/results/llama_cpp.json."""
    systems, versions = _peers(llama_server, python)
    if not systems:
        raise typer.BadParameter("give --llama-server, --python or both")
    systems = {_OURS: servers.pdserve, **systems}
    model = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{kind}.gguf"
        write_llama(model, file, gguf.GGMLQuantizationType[kind])
        results = asyncio.run(_measure(systems, file, rounds))
    medians = {
        system: {
            scenario: {name: statistics.median(values) for name, values in figures.items()}
            for scenario, figures in scenarios.items()
        }
        for system, scenarios in results.items()
    }
    write_result(
        "llama_cpp", {"peers": versions, "kind": kind, "medians": medians, "rounds": results}
    )
    _print(medians)


def _peers(llama_server: Path | None, python: Path | None) -> tuple[dict[str, Serve], list[str]]:
    """Return the peers that were given, and what they say about their versions."""
    systems, versions = dict[str, Serve](), list[str]()
    if llama_server is not None:
        systems["llama-server"] = partial(servers.llama_server, llama_server, _USERS)
        versions.append(asyncio.run(servers.llama_server_version(llama_server)))
    if python is not None:
        systems["llama-cpp-python"] = partial(servers.llama_cpp_python, python)
        versions.append(asyncio.run(servers.llama_cpp_python_version(python)))
    return systems, versions


async def _measure(systems: dict[str, Serve], file: Path, rounds: int) -> dict[str, Rounds]:
    results = {name: Rounds() for name in systems}
    with Progress() as progress:
        task = progress.add_task("rounds", total=rounds * len(systems))
        for number in range(rounds):
            for name, serve in systems.items():
                for scenario, figures in (await _round(serve(file), number)).items():
                    kept = results[name].setdefault(scenario, {})
                    for figure in _FIGURES:
                        kept.setdefault(figure, []).append(figures[figure])
                progress.advance(task)
    return results


async def _round(serving: AbstractAsyncContextManager[TextTarget], seed: int) -> dict[str, Figures]:
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


def _print(medians: dict[str, dict[str, Figures]]) -> None:
    """Print a table for each scenario; in brackets is what pdserve's figure is over a peer's."""
    for scenario in _SCENARIOS:
        table = Table("system", *_FIGURES, title=scenario.name)
        ours = medians[_OURS][scenario.name]
        for system, scenarios in medians.items():
            theirs = scenarios[scenario.name]
            cells = (f"{theirs[name]:.1f} ({ours[name] / theirs[name]:.2f})" for name in _FIGURES)
            table.add_row(system, *cells)
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
