"""Log of this process on a disk that a test fills."""

import errno
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import structlog

from common.telemetry.logs import configure_logs


class Disk(io.StringIO):
    """A stream that fails while its disk is full."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log's lines."""
        return [json.loads(line) for line in self.getvalue().splitlines()]


@contextmanager
def logging_to_a_disk() -> Iterator[Disk]:
    """Configure logs onto a disk as stderr; restore afterwards what was configured."""
    disk, before = Disk(), structlog.get_config()
    with patch("sys.stderr", disk):
        configure_logs(process="p")
        try:
            yield disk
        finally:
            structlog.configure(**before)
            structlog.contextvars.unbind_contextvars("process")
