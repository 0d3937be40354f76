"""Redirection of a worker's stdout and stderr to a file, with a traceback if a signal ends it."""

import faulthandler
import fcntl
import os
import sys
from pathlib import Path

from common.telemetry.log_files import prune

_STDOUT, _STDERR = 1, 2


def redirect_output(path: Path) -> None:
    """Send all output of this process and its libraries to a new, locked file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sys.stdout.flush()
    sys.stderr.flush()
    for standard in (_STDOUT, _STDERR):
        os.dup2(descriptor, standard)  # both copies hold the lock, until both are closed
    os.close(descriptor)
    # only the thread that fails: a worker has more than a hundred that wait for calls
    faulthandler.enable(file=_STDERR, all_threads=False)
    prune(path.parent)
