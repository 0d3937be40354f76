"""Comparison of pdserve with its peers: the same requests, one system after the other, in rounds.

Usage: python -m benchmarks.peers [--openai-url URL --openai-model NAME --openai-name vLLM]
"""

import asyncio
import secrets
import statistics
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.compared_systems import (
    MANY,
    SCENARIOS,
    Offline,
    Server,
    openai_server,
    pdserve,
    server_version,
)
from benchmarks.environment import write_result
from benchmarks.memory_waste import kv_waste, padding_waste
from benchmarks.peers.plot import plot
from benchmarks.peers.transformers_peer import Mode
from common.cache_dir import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

BASE = "pdserve colocated"
# by system, scenario and figure: one value a round
Results = dict[str, dict[str, dict[str, list[float]]]]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times each system runs")] = 3,
    openai_url: Annotated[str | None, typer.Option(help="A server with /v1/completions")] = None,
    openai_model: Annotated[str, typer.Option(help="The model's name there")] = "smollm2",
    openai_name: Annotated[str, typer.Option(help="What to call it")] = "vLLM",
    seed: Annotated[int | None, typer.Option(help="Of the prompts; a new one each run")] = None,
    servers_only: Annotated[bool, typer.Option(help="Leave out transformers' own ways")] = False,
) -> None:
    """Measure, print a table, write benchmarks/results/peers.json and peers.png."""
    systems: list[Server | Offline] = [
        pdserve(BASE, "--prefill", "0"),
        pdserve("pdserve 1P1D", "--prefill", "1"),
    ]
    peer = None
    if openai_url is not None:
        systems.insert(1, openai_server(openai_name, openai_url, openai_model))
        peer = f"{openai_name} {server_version(openai_url)}"
    if not servers_only:
        systems += _transformers_systems()
    if seed is None:  # new: a peer that stays up would have cached the prompts of an earlier run
        seed = secrets.randbelow(2**32)
    results = asyncio.run(_measure(systems, rounds, seed))
    medians = _medians(results)
    works = MANY.works(seed)
    waste = {"padding of static batches": padding_waste(works), "KV blocks": kv_waste(works)}
    name = "peers" if openai_url is None else f"peers_{openai_name.lower()}"
    path = write_result(
        name, {"seed": seed, "peer": peer, "medians": medians, "rounds": results, "waste": waste}
    )
    plot(medians, path.with_suffix(".png"))
    _print(Console(), medians, waste)


def _transformers_systems() -> list[Offline]:
    model_dir = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    return [
        Offline("transformers continuous", Mode.CONTINUOUS, 32, model_dir),
        Offline("transformers static", Mode.STATIC, 32, model_dir),
        Offline("one at a time", Mode.ONE_AT_A_TIME, 8, model_dir),
    ]


async def _measure(systems: list[Server | Offline], rounds: int, seed: int) -> Results:
    results: Results = {}
    with Progress() as progress:
        total = progress.add_task("all rounds", total=rounds * len(systems))
        for round_number in range(rounds):
            for system in systems:
                task = progress.add_task(system.name, total=system.num_requests)
                advance = partial(progress.advance, task)
                figures = await system.run(seed + 1000 * round_number, advance)
                for scenario, values in figures.items():
                    kept = results.setdefault(system.name, {}).setdefault(scenario, {})
                    for figure, value in values.items():
                        kept.setdefault(figure, []).append(value)
                progress.remove_task(task)
                progress.advance(total)
    return results


def _medians(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    return {
        system: {
            scenario: {figure: statistics.median(values) for figure, values in figures.items()}
            for scenario, figures in scenarios.items()
        }
        for system, scenarios in results.items()
    }


def _print(
    console: Console, medians: dict[str, dict[str, dict[str, float]]], waste: dict[str, float]
) -> None:
    for scenario in SCENARIOS:
        figures = list(medians[BASE][scenario.name])
        table = Table("system", *figures, title=scenario.name)
        for system, scenarios in medians.items():
            values = scenarios.get(scenario.name)
            if values is not None:
                table.add_row(
                    system, *(_cell(values, medians[BASE][scenario.name], f) for f in figures)
                )
        console.print(table)
    console.print("in brackets: the figure over pdserve colocated's, medians of all rounds")
    for name, share in waste.items():
        console.print(f"waste of {name}: {share:.1%} of allocated positions")


def _cell(values: dict[str, float], base: dict[str, float], figure: str) -> str:
    if figure not in values:
        return "-"
    ratio = f" ({values[figure] / base[figure]:.2f})" if base[figure] else ""
    return f"{values[figure]:.0f}{ratio}"


if __name__ == "__main__":
    typer.run(main)
