"""Goodput of the router's policies on one 1P1D deployment: is the decision to disaggregate right?

Usage: python -m benchmarks.routing
"""

import asyncio
import random
import secrets
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.compared_systems import pdserve
from benchmarks.goodput.plot import plot
from benchmarks.goodput.result import GoodputResult, medians, ratios, table
from benchmarks.goodput.run import SLO, TARGETS, Case, measure
from benchmarks.workload import Shape

COST, REMOTE, LOCAL = "cost (default)", "always remote", "always local"
_POLICIES = {COST: "cost", REMOTE: "least_loaded", LOCAL: "local"}
_LOAD = "Poisson arrivals, lengths uniform"


@dataclass(frozen=True, slots=True)
class Mix:
    """Uniform lengths.

    Every other prompt (at random) begins with a shared prefix, if there are any.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    num_prefixes: int = 0
    prefix_tokens: int = 0

    def shapes(self, count: int, seed: int) -> list[Shape]:
        """Return Poisson arrivals, one a second, as Case requires."""
        rng = random.Random(seed)
        shapes, arrival_s = [], 0.0
        for number in range(count):
            segments = [(f"own {number}", rng.randint(*self.inputs))]
            if self.num_prefixes and rng.random() < 0.5:
                prefix = f"shared {rng.randrange(self.num_prefixes)}"
                segments.insert(0, (prefix, self.prefix_tokens))
            shapes.append(Shape(arrival_s, tuple(segments), rng.randint(*self.outputs)))
            arrival_s += rng.expovariate(1.0)
        return shapes


CASES = [
    Case("short prompts, long answers", 14, Mix((16, 128), (64, 192)).shapes),
    Case("long prompts, short answers", 0, Mix((384, 1024), (8, 32)).shapes),
    Case("mixed, shared prefixes", 6, Mix((32, 384), (16, 96), 4, 512).shapes),
]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times each policy runs")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of requests, for each rate")] = 20,
) -> None:
    """Measure, print a table, write benchmarks/results/routing.json and routing.png."""
    systems = [
        pdserve(name, "--prefill", "1", "--policy", policy, **TARGETS)
        for name, policy in _POLICIES.items()
    ]
    seed = secrets.randbelow(2**32)
    searches = asyncio.run(measure(systems, CASES, rounds, seconds, seed))
    found = medians(searches)
    result = GoodputResult(
        _LOAD, seed, None, seconds, SLO, found, ratios(found, [REMOTE, LOCAL]), searches
    )
    plot(result.write("routing"))
    console = Console()
    console.print(table(result, "the better of both"))
    for case, values in result.ratios.items():
        console.print(f"{case}: {COST} at {values[COST]:.2f} of the better of both")


if __name__ == "__main__":
    typer.run(main)
