"""The command `pdserve logs`: prints the output of this machine's workers."""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from common.config import ServeConfig
from common.telemetry.log_files import LogFile, default_log_dir, log_files, newest_of, tail
from pdserve.errors import SetupError

_POLL_S = 0.25
_NAMESPACE = ServeConfig.model_fields["namespace"].default


def command(
    worker: Annotated[
        str | None, typer.Argument(help="A worker's name, such as decode-0; unset: list them")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what it writes, over restarts too")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Last lines to begin with")
    ] = 100,
    namespace: Annotated[
        str, typer.Option(envvar="PDSERVE_NAMESPACE", help="The deployment's name")
    ] = _NAMESPACE,
) -> None:
    """Show what a worker wrote: its latest start's output, or that of the one that ended last."""
    folder = default_log_dir() / namespace
    if worker is None:
        if follow:
            raise SetupError("--follow needs a worker", f"there are: {_names(folder)}")
        _list(folder)
        return
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


def _list(folder: Path) -> None:
    table = Table("worker", "state", "written", box=box.SIMPLE)
    table.add_column("file", overflow="fold")
    logs = log_files(folder)
    latest = {log.worker: log for log in reversed(logs)}
    for _, log in sorted(latest.items()):
        written = datetime.fromtimestamp(log.path.stat().st_mtime, UTC)
        state = "runs" if log.is_written else "ended"
        table.add_row(log.worker, state, f"{written:%Y-%m-%d %H:%M:%S} UTC", str(log.path))
    if not logs:
        raise SetupError(
            f"no logs in {folder}", "`pdserve serve` writes them where it runs workers of its own"
        )
    # wide output for programs, so that no path is cut in two
    Console(width=None if sys.stdout.isatty() else 250).print(table)


def _names(folder: Path) -> str:
    return ", ".join(dict.fromkeys(log.worker for log in log_files(folder))) or "none"
