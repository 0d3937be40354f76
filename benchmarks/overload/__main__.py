"""Overload by ten times the capacity: refusals, goodput, memory, recovery, fairness of tenants.

Usage: python -m benchmarks.overload. A deployment of 1 prefill and 1 decode worker; the client
shares its cores.
"""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.overload.figures import Offered, median
from benchmarks.overload.run import OVERLOAD, SLO, Round, bench
from benchmarks.slo_attainment import Attainment, Slo


@dataclass(frozen=True, slots=True)
class Overload:
    """Contents of the JSON file."""

    seed: int
    seconds: float
    slo: Slo
    capacity_per_s: float
    probes: list[Attainment]  # measurements of the search for the capacity
    medians: dict[str, float | None]
    rounds: list[Round]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is offered")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load that are counted")] = 30,
) -> None:
    """Measure, print a table, write benchmarks/results/overload.json."""
    seed = secrets.randbelow(2**32)
    capacity, probes, found = asyncio.run(_measure(rounds, seconds, seed))
    medians = {
        name: median([dict(figures(round_))[name] for round_ in found])
        for name, _ in figures(found[0])
    }
    result = Overload(seed, seconds, SLO, capacity, probes, medians, found)
    write_result("overload", asdict(result))
    table = Table("figure", "median", *map(str, range(1, rounds + 1)))
    table.title = f"{OVERLOAD} x {capacity:.2f} requests/s"
    for name, value in medians.items():
        table.add_row(name, *map(_cell, [value, *(dict(figures(part))[name] for part in found)]))
    Console().print(table)


async def _measure(
    rounds: int, seconds: float, seed: int
) -> tuple[float, list[Attainment], list[Round]]:
    with Progress() as progress:
        total = progress.add_task("capacity and rounds", total=1 + rounds)
        async with bench(progress) as running:
            capacity, probes = await running.find_capacity(seed)
            if not capacity:
                raise RuntimeError("no rate of the ladder is served within the SLOs")
            found = []
            for number in range(rounds):
                progress.advance(total)
                found.append(await running.run(capacity, seconds, seed + 100 * (number + 1)))
            return capacity, probes, found


def figures(found: Round) -> Iterator[tuple[str, float | None]]:
    """Yield a round's figures by name, as in the table."""
    yield "goodput at capacity, /s", found.at_capacity.goodput_per_s
    yield from _offered(f"{OVERLOAD} x", found.overloaded)
    yield "goodput ratio", found.goodput_ratio
    yield "recovery, s", found.recovery_s
    yield "met afterwards", found.recovered_share
    for name, resident in found.memory.items():
        yield f"{name}: RSS before, MB", resident.before / 1e6
        yield f"{name}: peak over before", resident.peak / resident.before
        yield f"{name}: after over before", resident.after / resident.before
    fairness = found.fairness
    yield "two tenants: goodput of 9 x, /s", fairness.heavy.goodput_per_s
    yield "two tenants: goodput of 1 x, /s", fairness.light.goodput_per_s
    yield "two tenants: met of 1 x", fairness.light.shares.get("met", 0.0)
    yield "two tenants: Jain index", fairness.jain


def _offered(label: str, offered: Offered) -> Iterator[tuple[str, float | None]]:
    yield f"{label}: goodput, /s", offered.goodput_per_s
    yield f"{label}: refused", offered.refused_share
    yield f"{label}: refusals p50, ms", offered.refused_p50_ms
    yield f"{label}: refusals p99, ms", offered.refused_p99_ms
    yield f"{label}: TTFT p99 of the others, ms", offered.ttft_p99_ms


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
