"""Sink of a process's log lines that loses lines where it must, and stops nothing.

1. `LogSink.write` writes a line to the stream. Where the stream takes none (a full disk, a pipe whose
   reader is gone) the line is lost and counted, and nobody gets an error.
2. The first line that is written again comes behind a warning, `log_lines_lost`, with the number of
   those that are missing.
3. `num_lost_lines` is the number since the start, for a metric.
"""

import threading
from enum import Enum
from typing import Final, TextIO

import structlog


class _Lost(Enum):
    LOST = "lost"


LOST: Final = _Lost.LOST  # what a logger's methods return for a line that was lost


class LogSink:
    """A logger, and the factory that structlog makes it with: all of a process's loggers are one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._num_unreported = 0
        self.num_lost = 0

    def __call__(self, *args: object) -> "LogSink":
        """Return the sink; structlog's factories are called with a logger's name."""
        return self

    def write(self, line: str) -> _Lost | None:
        """Write a line with its end; return LOST if the stream did not take it."""
        with self._lock:
            num_missing = self._num_unreported
            try:
                # one piece, so that lines of several processes do not mix
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: it was closed
                self.num_lost += 1
                self._num_unreported += 1
                return LOST
            self._num_unreported = 0
        if num_missing:
            structlog.get_logger().warning("log_lines_lost", num_lines=num_missing)
        return None

    debug = info = warning = error = critical = msg = write

    def note_lost(self) -> None:
        """Count a line that its writer left out, and will report: the stream would have made it wait."""
        with self._lock:
            self.num_lost += 1


def num_lost_lines() -> int:
    """Return the number of this process's lost log lines; 0 before `configure_logs`."""
    sink = _sink()
    return 0 if sink is None else sink.num_lost


def note_lost_line() -> None:
    """Count a line of this process as lost, if `configure_logs` was called."""
    if (sink := _sink()) is not None:
        sink.note_lost()


def _sink() -> LogSink | None:
    found = structlog.get_config()["logger_factory"]
    return found if isinstance(found, LogSink) else None
