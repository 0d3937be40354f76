"""Log lines about requests, which no request waits for."""

import contextlib
import select
import sys
import time
from collections.abc import Callable
from math import inf

from common.telemetry.log_sink import LOST, note_lost_line
from common.telemetry.logs import get_logger

_log = get_logger()


class RequestLog:
    """Writes lines about requests at level info; a line may be lost, and the next one says so.

    A line is lost while stderr takes none: a pipe that nobody reads, or a full disk. So is one beyond
    `max_lines_per_s`. The next line that is written has their number, `num_lines_lost`.
    """

    def __init__(
        self, max_lines_per_s: float = inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_lines_per_s = max_lines_per_s
        self._clock = clock
        self._window_s = -inf  # start of the second in which `_num_lines` were written
        self._num_lines = 0
        self._num_lost = 0

    def write(self, event: str, **fields: str | float | None) -> None:
        """Write a line, or count it as lost. Never raises and never blocks."""
        if not self._has_room():
            self._num_lost += 1
            return
        if not _can_write():
            note_lost_line()
            self._num_lost += 1
            return
        lost = {"num_lines_lost": self._num_lost} if self._num_lost else {}
        if _log.info(event, **fields, **lost) is LOST:  # a full disk, or a pipe without a reader
            self._num_lost += 1
            return
        self._num_lines += 1
        self._num_lost = 0

    def _has_room(self) -> bool:
        """Return True if this second may have one more line."""
        now_s = self._clock()
        if now_s - self._window_s >= 1.0:
            self._window_s, self._num_lines = now_s, 0
        return self._num_lines < self._max_lines_per_s


def _can_write() -> bool:
    """Return True if stderr takes a line now without a wait. A pipe then has a free page, 4 KiB."""
    with contextlib.suppress(OSError, ValueError):  # stderr without a descriptor never blocks
        asked = select.poll()
        asked.register(sys.stderr, select.POLLOUT)
        return any(event & select.POLLOUT for _, event in asked.poll(0))
    return True
