"""Folder of converted models: an entry is either complete or absent.

1. An entry that is there is returned without a lock and without a write.
2. Otherwise one process at a time, under the entry's lock file, builds it in a work folder.
3. What the build leaves is flushed to disk and renamed to the entry's name: the only way in.
4. A process that dies leaves its work folder behind; whoever holds the lock next removes it. Work
   folders exist only under the lock, so one that is there when it is taken belongs to nobody.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.engine.weights.progress import Progress
from pdserve.errors import SetupError

LOCK_DEADLINE_S = 1800.0
_POLL_S = 0.05

Build = Callable[[Path], Path]
"""Function that fills the work folder it is given and returns the folder inside it to publish."""


def entry_name(sha256: str) -> str:
    """Return the entry of a GGUF file, whatever the file is called."""
    return f"gguf-{sha256[:16]}"


def kept_entry_name(sha256: str) -> str:
    """Return the entry of a GGUF file whose weights stay in the file."""
    return f"{entry_name(sha256)}-kept"


def find(cache_dir: Path, entry: str) -> Path | None:
    """Return the finished entry's folder, or None when it is not there."""
    folder = cache_dir / entry
    return folder if folder.is_dir() else None


def publish(
    cache_dir: Path,
    entry: str,
    build: Build,
    progress: Progress,
    lock_deadline_s: float = LOCK_DEADLINE_S,
) -> Path:
    """Return the entry's folder, building it first when it is missing.

    Raises SetupError when the cache cannot be written or another process holds the lock for longer
    than `lock_deadline_s` seconds. Errors of `build` pass through, and leave no entry.
    """
    if ready := find(cache_dir, entry):
        return ready
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f".{entry}.lock", progress, lock_deadline_s):
            return find(cache_dir, entry) or _build(cache_dir, entry, build)
    except OSError as error:
        raise SetupError(
            f"cannot fill the model cache {cache_dir}: {error}",
            "Free space or fix its permissions, or set XDG_CACHE_HOME to another folder",
        ) from error


def _build(cache_dir: Path, entry: str, build: Build) -> Path:
    prefix = f".{entry}.work-"
    for leftover in cache_dir.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=cache_dir))
    try:
        built = build(work)
        for path in (*built.rglob("*"), built):
            _flush(path)
        final = cache_dir / entry
        built.rename(final)
        _flush(cache_dir)
        return final
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, progress: Progress, deadline_s: float) -> Iterator[None]:
    # The lock goes with the open file, so the system frees it when the process dies. The file
    # stays: removing it would let two processes lock two files of one name.
    with path.open("a") as file:
        if not try_lock(file.fileno()):
            progress.stage("waiting for another process that prepares this model", None)
            end = time.monotonic() + deadline_s
            while not try_lock(file.fileno()):
                if time.monotonic() >= end:
                    raise SetupError(
                        f"another process has held {path} for {deadline_s:g} s",
                        "Wait for it or end it (it is preparing the same model), then try again",
                    )
                time.sleep(_POLL_S)
        yield


def try_lock(descriptor: int) -> bool:
    """Take the open file's exclusive lock, if nobody else has it; return True if it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
