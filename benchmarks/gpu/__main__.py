"""Benchmark of the engine on a GPU against the GPU's limits: an 8B Llama shape, random weights.

Usage: python -m benchmarks.gpu [--scale tiny]
"""

from enum import StrEnum
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.environment import write_result
from benchmarks.gpu.comparison import Comparison
from benchmarks.gpu.machine import measure_machine
from benchmarks.gpu.measurements import measure_all
from benchmarks.gpu.model import check_memory
from benchmarks.gpu.report import Report
from benchmarks.gpu.scale import FULL, TINY
from benchmarks.gpu.time_budget import Budget
from pdserve.errors import SetupError

_LIMIT_S = 420.0  # under 8 minutes with the start of Python and the peer's last steps


class Size(StrEnum):
    """Size of a run."""

    FULL = "full"
    TINY = "tiny"


def main(
    scale: Annotated[
        Size, typer.Option(help="tiny: only try the command out, without a GPU if need be")
    ] = Size.FULL,
) -> None:
    """Measure and print; a full run writes benchmarks/results/gpu.json and gpu.png."""
    console = Console(width=120)
    try:
        report = _measure(scale, console)
    except SetupError as error:
        console.print(f"error: {error}", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    if scale is Size.FULL:
        path = write_result("gpu", report.to_json())
        report.plot(path.with_suffix(".png"))
        console.print(f"written to {path}")
        return
    where = "a CPU and mean nothing for a GPU" if report.is_of_cpu else "a tiny model"
    console.print(f"a tiny run: these figures are of {where}; no results file was written")


def _measure(size: Size, console: Console) -> Report:
    has_cuda = torch.cuda.is_available()
    if size is Size.FULL and not has_cuda:
        raise SetupError(
            "this needs a CUDA device and torch sees none",
            "run it where there is one, or add --scale tiny to try the command on the CPU",
        )
    scale, device = FULL if size is Size.FULL else TINY, torch.device("cuda" if has_cuda else "cpu")
    check_memory(scale, device)
    with console.status("memory bandwidth and products") as status:
        budget = Budget(_LIMIT_S, status.update)
        comparison = Comparison(scale.requests.works())
        report = Report(measure_machine(scale, device), scale.context, comparison, budget.left_out)
        try:
            measure_all(scale, device, budget, report)
        finally:  # keep the results found before a failure
            report.print(console)
    return report


if __name__ == "__main__":
    typer.run(main)
