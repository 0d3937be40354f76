"""The commands `pdserve model pull` and `pdserve model list`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)

from cli.grid import Column, Grid, Row
from cli.kernels import compile_kernels
from cli.output import (
    AsJson,
    AsPlain,
    check_forms,
    print_grid,
    print_json,
    print_plain,
    stdout_console,
)
from cli.progress_columns import EndColumn, RateColumn
from common.cache_dir import default_cache_dir
from common.engine.weights.cache import entry_name, find
from common.engine.weights.catalog import CATALOG, DEFAULT_ALIAS
from common.engine.weights.pull import pull

app = typer.Typer(help="Fetch models and list them.", no_args_is_help=True)

_COLUMNS = (
    Column("alias"),
    Column("license", rank=2),
    Column("size", rank=1, is_number=True),
    Column("state"),
    Column("path", rank=3),
)


class StageBars:
    """Progress bars on stderr, one per stage of library work; nothing before the first stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None) -> None:
        """Begin a bar; `total` None draws a bar without a known length."""
        self.finish()
        self._bars.start()
        self._task = self._bars.add_task(name, total=total)

    def advance(self, amount: int) -> None:
        """Advance the bar."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def finish(self) -> None:
        """Show the current bar as complete, whatever its count."""
        if self._task is not None:
            total = self._bars.tasks[self._task].total or 1
            self._bars.update(self._task, total=total, completed=total)
            self._task = None


@contextmanager
def progress_bars() -> Iterator[StageBars]:
    """Yield bars for the `progress` argument of `pull` and `resolve_model`."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),  # names of files are long
        TaskProgressColumn(),
        RateColumn(),
        EndColumn(),
    )
    console = Console(stderr=True)
    # redrawn bars are noise in a log file, and would precede a one-line error
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    stages = StageBars(bars)
    try:
        yield stages
        stages.finish()
    finally:
        bars.stop()


def known_aliases() -> list[str]:
    """Return the names that a shell completes where a model is asked for."""
    return list(CATALOG)


@app.command("pull")
def pull_command(
    alias: Annotated[
        str,
        typer.Argument(help="A name from `pdserve model list`", autocompletion=known_aliases),
    ] = DEFAULT_ALIAS,
    as_plain: Annotated[bool, typer.Option("--plain", help="Print the path alone")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a model, convert it and compile its kernels; instant when that was done before."""
    check_forms(as_json=as_json, as_plain=as_plain)
    with progress_bars() as progress:
        path = pull(alias, default_cache_dir(), progress)
        problem = compile_kernels(path, progress)
    if problem is not None:
        typer.echo(f"its kernels will be compiled at the first start ({problem})", err=True)
    if as_json:
        print_json({"alias": alias, "path": str(path), "kernels": problem or "compiled"})
    else:
        print(path if as_plain else f"{alias} is ready in {path}")


@app.command("list")
def list_command(as_plain: AsPlain = False, as_json: AsJson = False) -> None:
    """List the models pdserve knows by name."""
    check_forms(as_json=as_json, as_plain=as_plain)
    cache_dir = default_cache_dir()
    rows = []
    for known in CATALOG.values():
        path = find(cache_dir, entry_name(known.sha256))
        state = "pulled" if path else "not pulled"
        size = f"{known.wheel_bytes / 1e6:.0f} MB"
        rows.append(Row((known.alias, known.license, size, state, str(path or "-"))))
    grid = Grid(_COLUMNS, rows, box=box.SIMPLE)
    if as_json:
        keys = [column.heading for column in _COLUMNS]
        cells = ([None if cell == "-" else str(cell) for cell in row.cells] for row in rows)
        print_json([dict(zip(keys, found, strict=True)) for found in cells])
    elif as_plain:
        print_plain(grid)
    else:
        print_grid(stdout_console(), grid)
