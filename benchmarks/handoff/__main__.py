"""Interference of prefill with decode, and the duration of a hand-off.

Measures pdserve, and any server by URL.
Usage: python -m benchmarks.handoff [--openai-url URL --openai-model NAME --openai-name vLLM]
"""

import asyncio
import secrets
import statistics
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.compared_systems import Server, openai_server, pdserve, server_version
from benchmarks.environment import write_result
from benchmarks.handoff.plot import largest_gaps, plot
from benchmarks.handoff.scenarios import NUM_REQUESTS, Outcome, flood, handoffs, steady_arrivals
from benchmarks.load_generator import OnDone, closed_loop
from benchmarks.pdserve_server import serving
from benchmarks.workload import random_works
from pdserve.client import AsyncClient

DISAGGREGATED = "pdserve 1P1D"
Rounds = dict[str, dict[str, list[Outcome]]]  # by system and scenario


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times each system runs")] = 3,
    openai_url: Annotated[str | None, typer.Option(help="A server with /v1/completions")] = None,
    openai_model: Annotated[str, typer.Option(help="The model's name there")] = "smollm2",
    openai_name: Annotated[str, typer.Option(help="What to call it")] = "vLLM",
) -> None:
    """Measure, print a table, write benchmarks/results/handoff.json and handoff.png."""
    systems = [pdserve(DISAGGREGATED, "--prefill", "1"), pdserve("pdserve 0P1D", "--prefill", "0")]
    peer = None
    if openai_url is not None:
        systems.insert(1, openai_server(openai_name, openai_url, openai_model))
        peer = f"{openai_name} {server_version(openai_url)}"
    seed = secrets.randbelow(2**32)
    results = asyncio.run(_measure(systems, rounds, seed))
    medians = {
        system: {name: _medians(outcomes) for name, outcomes in scenarios.items()}
        for system, scenarios in results.items()
    }
    figures = {"seed": seed, "peer": peer, "medians": medians, "flood": _last_flood(results)}
    plot(write_result("handoff", figures))
    _print(medians)


async def _measure(systems: list[Server], rounds: int, seed: int) -> Rounds:
    results: Rounds = {system.name: {} for system in systems}
    with Progress() as progress:
        task = progress.add_task("rounds", total=rounds * sum(map(_num_requests, systems)))
        advance = partial(progress.advance, task)
        for round_number in range(rounds):
            for system in systems:
                outcomes = await _run(system, seed + 10_000 * round_number, advance)
                for name, outcome in outcomes.items():
                    results[system.name].setdefault(name, []).append(outcome)
    return results


def _num_requests(system: Server) -> int:
    """Return the requests of a round; hand-offs exist only in a system with prefill workers."""
    skipped = 0 if system.name == DISAGGREGATED else NUM_REQUESTS["hand-off"]
    return sum(NUM_REQUESTS.values()) - skipped


async def _run(system: Server, seed: int, on_done: OnDone) -> dict[str, Outcome]:
    async with system.connect() as target:
        await closed_loop(target, random_works(4, seed + 99, (16, 600), (4, 8)), 4, lambda: None)
        outcomes = {
            "1.5 requests/s": await steady_arrivals(target, seed, on_done),
            "flood": await flood(target, seed + 1, on_done),
        }
    if system.name == DISAGGREGATED:
        # `least_loaded` hands off every prompt, also those that the default would run locally
        arguments = ("--prefill", "1", "--policy", "least_loaded")
        async with serving(*arguments) as address, AsyncClient(address) as client:
            await handoffs(client, seed + 2, lambda: None)  # warm-up
            outcomes["hand-off"] = await handoffs(client, seed + 3, on_done)
    return outcomes


def _last_flood(results: Rounds) -> dict[str, dict[str, list[float]]]:
    """Return the last round's gaps, so that the picture and the table are of one run."""
    floods = {system: scenarios["flood"][-1] for system, scenarios in results.items()}
    return {system: asdict(largest_gaps(flood.gaps)) for system, flood in floods.items()}


def _medians(outcomes: list[Outcome]) -> dict[str, float]:
    names = outcomes[0].figures
    return {name: statistics.median(o.figures[name] for o in outcomes) for name in names}


def _print(medians: dict[str, dict[str, dict[str, float]]]) -> None:
    console = Console()
    for scenario in NUM_REQUESTS:
        rows = {s: scenarios[scenario] for s, scenarios in medians.items() if scenario in scenarios}
        figures = list(next(iter(rows.values())))
        table = Table("system", *figures, title=scenario)
        for system, values in rows.items():
            table.add_row(system, *(f"{values[figure]:.3g}" for figure in figures))
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
