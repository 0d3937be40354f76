"""Files that may change while a process runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

T = TypeVar("T")
_log = get_logger()


class Reloading(Generic[T]):
    """The value that `read` makes of some files, read again after a file changes.

    A value that cannot be read again stays as it was. An equal value stays the same object, since a
    file may be touched, or written anew with the same content.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Read the files at once. Raises SetupError, as `read` does."""
        self._paths = paths
        self._read = read
        # before reading: a change in between is then seen the next time
        self._seen = self._look()
        self._value = read()

    def current(self) -> T:
        """Return the value now. Without a change it costs one stat a file."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            names = [str(path) for path in self._paths]
            try:
                value = self._read()
                if value != self._value:
                    self._value = value
                    _log.info("files_reloaded", files=names)
            except SetupError as error:
                _log.error("files_refused", files=names, error=str(error), kept="as it was")
        return self._value

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # follows links: Kubernetes swaps one when a Secret changes
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
