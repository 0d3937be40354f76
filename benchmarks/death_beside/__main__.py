"""Gaps between the tokens of undisturbed requests while another decode worker dies and comes back.

Usage: python -m benchmarks.death_beside. One deployment has 1 prefill and 2 decode workers. Streams run
on both decode workers; in each round one of them is killed. The streams of the other one are counted
in these spans:

1. `before` the kill;
2. `moving`: from the kill until each of its streams has gone on here. Their prompts and their output so far
   are computed anew;
3. `starting`: from there until the killed worker serves again. A process starts and loads the model;
4. `after`: later, as long as `starting`, with the streams that have moved here, undisturbed;
5. `control`: as long as `moving`. Nobody dies; the streams that had moved have ended, the worker that came
   back has left, and as many new requests come at once as had moved, with prompts of the same lengths.

`during` is the second and the third, `calm` the last two: the same load without a death. So `moving` over
`control`, `starting` over `after`, and `during` over `calm` are what the death itself costs.
"""

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.fleet import Fleet
from benchmarks.death_beside.rounds import measure_round
from benchmarks.death_beside.spans import SPANS, Round
from benchmarks.environment import write_result
from benchmarks.pdserve_server import deployment
from pdserve.client import AsyncClient

_RATIOS = (("moving", "control"), ("starting", "after"), ("during", "calm"), ("during", "before"))


def main(
    model: str = "smollm2-135m", rounds: int = 3, streams: int = 8, span_s: float = 10.0
) -> None:
    """Measure, print a table, write benchmarks/results/death_beside.json."""
    found = asyncio.run(_measure(model, rounds, streams, span_s))
    medians = {name: _medians(found, name) for name in SPANS}
    ratios = {
        f"p99 {span} over {other}": statistics.median(one.ratio(span, other) for one in found)
        for span, other in _RATIOS
    }
    figures = {
        "model": model,
        "streams": streams,
        "span_s": span_s,
        **ratios,
        "medians": medians,
        "rounds": [asdict(one) for one in found],
    }
    path = write_result("death_beside", figures)
    title = "; ".join(f"{name}: {value:.2f}" for name, value in ratios.items())
    table = Table("span", "p50, ms", "p99, ms", title=title)
    for name, values in medians.items():
        table.add_row(name, f"{values['p50_ms']:.1f}", f"{values['p99_ms']:.1f}")
    Console().print(table, f"written to {path}")


def _medians(found: Sequence[Round], span: str) -> dict[str, float]:
    return {
        "p50_ms": statistics.median(one.p50_ms[span] for one in found),
        "p99_ms": statistics.median(one.p99_ms[span] for one in found),
    }


async def _measure(model: str, rounds: int, streams: int, span_s: float) -> list[Round]:
    flags = ("--prefill", "1", "--decode", "2", "--policy", "least_loaded")
    settings = {
        "PDSERVE_ROUTER__MAX_WAIT_S": "0",
        "PDSERVE_ROUTER__MAX_OUTAGE_S": "600",
        "PDSERVE_START_TIMEOUT_S": "300",
    }
    async with (
        deployment(model, *flags, **settings) as served,
        AsyncClient(served.address) as client,
    ):
        fleet = Fleet(client, served.address, served.router_pid)
        found = []
        for number in range(rounds):
            async for _ in client.scale(decode=2):  # the control took one away
                pass
            found.append(await measure_round(fleet, number, streams, span_s))
        return found


if __name__ == "__main__":
    typer.run(main)
