"""The command `pdserve logs`: prints the output of this machine's workers."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box

from cli.grid import Column, Grid, Row
from cli.output import (
    AsJson,
    AsPlain,
    check_forms,
    print_grid,
    print_json,
    print_plain,
    stdout_console,
)
from common.config import ServeConfig
from common.telemetry.log_files import LogFile, default_log_dir, log_files, newest_of, tail
from pdserve.errors import SetupError

_POLL_S = 0.25
_KEYS = ("worker", "state", "written", "file")
_NAMESPACE = ServeConfig.model_fields["namespace"].default


def _known_workers() -> list[str]:
    """Return the names that a shell completes: of workers with a log in the default namespace."""
    return list(dict.fromkeys(log.worker for log in log_files(default_log_dir() / _NAMESPACE)))


_Worker = Annotated[
    str | None,
    typer.Argument(
        help="A worker's name, such as decode-0; unset: list them", autocompletion=_known_workers
    ),
]


def command(
    worker: _Worker = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what it writes, over restarts too")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Last lines to begin with")
    ] = 100,
    namespace: Annotated[
        str, typer.Option(envvar="PDSERVE_NAMESPACE", help="The deployment's name")
    ] = _NAMESPACE,
    as_plain: AsPlain = False,
    as_json: AsJson = False,
) -> None:
    """Show what a worker wrote: its latest start's output, or that of the one that ended last."""
    folder = default_log_dir() / namespace
    check_forms(as_json=as_json, as_plain=as_plain)
    if worker is None:
        if follow:
            raise SetupError("--follow needs a worker", f"there are: {_names(folder)}")
        _list(folder, as_json=as_json, as_plain=as_plain)
        return
    if as_json or as_plain:
        raise SetupError("--json and --plain go with the list of workers", "give no WORKER")
    log = newest_of(folder, worker)
    if log is None:
        raise SetupError(
            f"no log of a worker '{worker}' in {folder}",
            f"there are: {_names(folder)}; a cluster's workers have theirs on their own nodes",
        )
    try:
        last = tail(log.path, lines)
        print("".join(f"{line}\n" for line in last.lines), end="", flush=True)
        if follow:
            for text in _news(folder, log, last.position):
                print(text, end="", flush=True)
    except OSError as error:
        raise SetupError(f"{error.filename} cannot be read: {error.strerror}") from error


def _news(folder: Path, log: LogFile, position: int) -> Iterator[str]:
    """Yield text after this byte, then that of a restart's new file; may cut lines."""
    while True:
        with log.path.open(encoding="utf-8", errors="replace") as file:
            file.seek(position)
            while text := file.read():
                yield text
            position = file.tell()
        latest = newest_of(folder, log.worker)
        if latest is not None and latest.path != log.path:
            log, position = latest, 0
        else:
            time.sleep(_POLL_S)


def _list(folder: Path, *, as_json: bool, as_plain: bool) -> None:
    grid = _grid(folder)
    if not grid.rows:
        raise SetupError(
            f"no logs in {folder}", "`pdserve serve` writes them where it runs workers of its own"
        )
    if as_json:
        print_json([dict(zip(_KEYS, map(str, row.cells), strict=True)) for row in grid.rows])
    elif as_plain:
        print_plain(grid)
    else:
        print_grid(stdout_console(), grid)


def _grid(folder: Path) -> Grid:
    """Return one row per worker, with its newest file."""
    latest = {log.worker: log for log in reversed(log_files(folder))}
    rows = []
    for _, log in sorted(latest.items()):
        written = datetime.fromtimestamp(log.path.stat().st_mtime, UTC)
        state = "runs" if log.is_written else "ended"
        rows.append(Row((log.worker, state, f"{written:%Y-%m-%d %H:%M:%S} UTC", str(log.path))))
    columns = (Column(_KEYS[0]), Column(_KEYS[1], rank=1), Column(_KEYS[2], rank=2))
    return Grid((*columns, Column(_KEYS[3])), rows, box=box.SIMPLE)


def _names(folder: Path) -> str:
    return ", ".join(dict.fromkeys(log.worker for log in log_files(folder))) or "none"
