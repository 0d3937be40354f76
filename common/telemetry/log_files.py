"""Log files of a machine's workers: one file for each start, `FOLDER/NAMESPACE/WORKER/START.log`.

The process that writes a file holds its lock (flock) until it ends, for whatever reason: a locked file
belongs to a running worker. The newest few of each worker are kept, and all that are locked.
"""

import fcntl
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

_SUFFIX = ".log"
_MAX_KEPT = 5


def default_log_dir() -> Path:
    """Return `$XDG_STATE_HOME/pdserve/logs`, or the same under `~/.local/state`. For entry points only."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    # the XDG rules say to ignore a relative path
    root = base if base.is_absolute() else Path.home() / ".local" / "state"
    return root / "pdserve" / "logs"


def new_log_name() -> str:
    """Return a name for the files of one start; later names sort after earlier ones."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class LogFile:
    """Output of one worker, from one start to its end."""

    worker: str
    path: Path

    @property
    def is_written(self) -> bool:
        """True while its worker still runs."""
        try:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def log_files(folder: Path) -> list[LogFile]:
    """Return all files in a namespace's folder, by worker, each worker's newest first."""
    found = [LogFile(path.parent.name, path) for path in folder.glob(f"*/*{_SUFFIX}")]
    newest_first = sorted(found, key=lambda log: log.path.name, reverse=True)
    return sorted(newest_first, key=lambda log: log.worker)


def newest_of(folder: Path, worker: str) -> LogFile | None:
    """Return the file of a worker's latest start, if there is one."""
    return next((log for log in log_files(folder) if log.worker == worker), None)


def prune(folder: Path) -> None:
    """Remove all but the newest files of one worker's folder; files of running workers stay."""
    logs = [LogFile(folder.name, path) for path in sorted(folder.glob(f"*{_SUFFIX}"), reverse=True)]
    for log in logs[_MAX_KEPT:]:
        if not log.is_written:
            log.path.unlink(missing_ok=True)


class Tail(NamedTuple):
    """End of a file at one moment."""

    lines: list[str]  # without line ends
    position: int  # in bytes, behind the lines


def tail(path: Path, num_lines: int, max_bytes: int = 2**20) -> Tail:
    """Return the last lines of a file, of its last `max_bytes` alone. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - max_bytes, 0))
        text = file.read().decode("utf-8", errors="replace")
        position = file.tell()
    lines = text.removesuffix("\n").split("\n") if text else []
    return Tail(lines[max(len(lines) - num_lines, 0) :], position)
