"""Files that may change while we run."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

T = TypeVar("T")
_log = get_logger()


class Reloading(Generic[T]):
    """What `read` makes of some files: read again after one changed, and kept as it was when that fails.

    It is another object only where it is not equal: a file may be touched, or written anew with what it held.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads at once; raises what `read` does, a SetupError."""
        self._paths = paths
        self._read = read
        # before reading: a change in between is then seen the next time
        self._seen = self._look()
        self._value = read()

    def current(self) -> T:
        """The value now. Costs one stat a file where nothing changed."""
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
