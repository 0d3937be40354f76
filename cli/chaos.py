"""The command `pdserve chaos`: random faults on a deployment of its own, every answer compared."""

import asyncio
import json
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.grid import Column, Grid, Row
from cli.model import progress_bars
from cli.output import print_grid, stdout_console
from common.cache_dir import default_cache_dir
from common.engine.weights.resolve import resolve_model
from pdserve.errors import InternalError, SetupError

if TYPE_CHECKING:
    from benchmarks.chaos.report import Report
    from benchmarks.chaos.run import Chaos, Plan


_COLUMNS = (
    Column("fault"),
    Column("runs", rank=2, is_number=True),
    Column("requests", is_number=True),
    Column("identical", is_number=True),
    Column("gap p50, p99 s", rank=3, is_number=True),
    Column("recovery, s", rank=1, is_number=True),
)


def command(
    model: Annotated[
        str, typer.Argument(help="Alias, local folder, GGUF file or hub id")
    ] = "smollm2-135m",
    seed: Annotated[int | None, typer.Option(min=0, help="Unset: a random one")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=10_000, help="Length of the run")] = 10.0,
    users: Annotated[int, typer.Option(min=1, max=256, help="Questions at once")] = 12,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the report, with the machine's facts")
    ] = None,
) -> None:
    """Kill, stop and cut a deployment of its own under load; exit 1 unless every text is right."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise SetupError(f"--json {json_file}: no such folder", "make it, or name another file")
    # these load much, and `pdserve --help` needs none of it
    from benchmarks.chaos.run import Plan
    from benchmarks.environment import describe

    with progress_bars() as progress:
        resolve_model(model, default_cache_dir(), progress)  # fetched before the clock runs
    plan = Plan(model, secrets.randbelow(2**32) if seed is None else seed, minutes, users)
    console = stdout_console()
    with NamedTemporaryFile("w", prefix="pdserve-chaos-", suffix=".log", delete=False) as log:
        console.print(f"seed {plan.seed}; the deployment's log is {log.name}", highlight=False)
        try:
            report = asyncio.run(_run(plan, log, console))
        except Exception as error:  # a worker that does not come back, most likely
            raise InternalError(f"the run ended early: {_first(error)!r}") from error
    _print(console, report)
    if json_file is not None:
        figures = asdict(plan) | asdict(report)
        text = json.dumps({"environment": describe(), "figures": figures}, indent=2)
        json_file.write_text(text + "\n", "utf-8")
    if not report.is_clean:
        raise typer.Exit(1)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(plan: "Plan", log: IO[str], console: Console) -> "Report":
    from benchmarks.chaos.run import run

    view = _View()
    with Live(view, console=console, refresh_per_second=2, transient=True):
        return await run(plan, log, view.show)


class _View:
    """Live table of a run."""

    def __init__(self) -> None:
        self._chaos: Chaos | None = None

    def show(self, chaos: "Chaos") -> None:
        """Show this run from now on."""
        self._chaos = chaos

    def __rich__(self) -> Table | str:
        return (
            _live_table(self._chaos)
            if self._chaos
            else "the deployment starts, and answers without faults first"
        )


def _live_table(chaos: "Chaos") -> Table:
    ended = chaos.load.ended
    left_s = max(chaos.until_s - time.monotonic(), 0)
    title = f"{left_s:.0f} s left · {len(ended)} answers, {chaos.load.num_right} as undisturbed"
    table = Table("fault", "runs", "last recovery, s", title=title)
    for name in dict.fromkeys(run.fault for run in chaos.runs):
        recoveries = [run.recovery_s for run in chaos.runs if run.fault == name]
        table.add_row(name, str(len(recoveries)), f"{recoveries[-1]:.1f}")
    if chaos.now:
        table.add_row(f"[yellow]{chaos.now}[/yellow]", "now", "")
    return table


def _print(console: Console, report: "Report") -> None:
    rows = [
        Row(
            (
                row.fault,
                str(row.runs or "-"),
                str(row.requests),
                str(row.identical),
                f"{_cell(row.gap_p50_s)}, {_cell(row.gap_p99_s)}",
                _cell(row.recovery_p50_s),
            )
        )
        for row in report.rows
    ]
    print_grid(console, Grid(_COLUMNS, rows, box=box.SIMPLE))
    left = report.remains
    for problem in (*report.errors, *left.told()):
        console.print(problem, style="red", markup=False)
    console.print(
        f"{report.identical} of {report.requests} as undisturbed, {report.cancelled} of them "
        f"cancelled; left: {left.blocks} blocks, {left.objects} objects "
        f"and {left.evictable} that Ray may evict, "
        f"{report.processes_left} processes, {left.requests} requests; "
        f"counts {'add up' if left.adds_up else 'do not add up'}",
        highlight=False,
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
