"""Goodput on real traces at equal cores: pdserve disaggregated, colocated, and any server by URL.

Usage: python -m benchmarks.goodput --traces FOLDER
       [--openai-url URL --openai-model NAME --openai-name vLLM]
"""

import asyncio
import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.compared_systems import openai_server, pdserve, server_version
from benchmarks.goodput.plot import plot
from benchmarks.goodput.result import GoodputResult, medians, ratios, table
from benchmarks.goodput.run import SLO, TARGETS, Case, measure
from benchmarks.traces import load_traces

# start of the search: 2.8 and 5.7 requests/s
_FIRST_RUNGS = {"Azure conversation": 6, "Mooncake conversation": 10}
COLOCATED = "pdserve 0P2D"
_OURS = (
    pdserve("pdserve 1P1D", "--prefill", "1", **TARGETS),
    pdserve(COLOCATED, "--prefill", "0", "--decode", "2", **TARGETS),
)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times each system runs")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of requests, for each rate")] = 20,
    traces: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, envvar="BENCH_TRACES", help="Folder of the traces"
        ),
    ] = None,
    openai_url: Annotated[str | None, typer.Option(help="A server with /v1/completions")] = None,
    openai_model: Annotated[str, typer.Option(help="The model's name there")] = "smollm2",
    openai_name: Annotated[str, typer.Option(help="What to call it")] = "vLLM",
) -> None:
    """Measure, print a table, write benchmarks/results/goodput.json and goodput.png."""
    try:
        loaded, load = load_traces(traces)
    except FileNotFoundError as error:
        raise typer.BadParameter(f"{error.filename} is not there", param_hint="--traces") from error
    console = Console()
    console.print(load)
    systems, base, peer = list(_OURS), COLOCATED, None
    if openai_url is not None:
        systems.insert(1, openai_server(openai_name, openai_url, openai_model))
        base, peer = openai_name, f"{openai_name} {server_version(openai_url)}"
    # a new seed: a peer that stays up would have cached the prompts of an earlier run
    seed = secrets.randbelow(2**32)
    cases = [Case(trace.name, _FIRST_RUNGS[trace.name], trace.shapes) for trace in loaded]
    searches = asyncio.run(measure(systems, cases, rounds, seconds, seed))
    found = medians(searches)
    result = GoodputResult(load, seed, peer, seconds, SLO, found, ratios(found, [base]), searches)
    plot(result.write("goodput"))
    console.print(table(result, base))


if __name__ == "__main__":
    typer.run(main)
