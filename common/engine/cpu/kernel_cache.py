"""Compiled kernels on disk, safe for any number of processes that compile at once.

numba's own cache numbers its files through an index that each process reads and writes back. Two processes
that save different signatures at one time take the same number, and a later one runs the wrong machine code.
Here a file's name is the hash of everything that makes the code what it is, so there is no index to race
for. Writers of one name write the same thing, and a file appears whole or not at all.

1. A kernel that is on disk is loaded.
2. Of the processes that lack it one takes the kernel's lock and compiles; the others wait.
3. It saves the kernel, then lets the lock go; the others find the file.
4. A process that dies lets its lock go; one that compiles for longer than _LOCK_DEADLINE_S has company then.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from common.cache_dir import default_cache_dir
from common.engine.cpu.late_code import name_runtime
from common.engine.cpu.linking import KernelError, guard
from common.engine.weights.cache import try_lock
from common.telemetry.logs import get_logger

_DIGEST_BYTES = 32
_LOCK_DEADLINE_S = 300.0  # a kernel takes seconds, on a busy machine a minute
_POLL_S = 0.02
_log = get_logger()


@dataclass(slots=True)
class Tally:
    """Kernels that this process has compiled or loaded."""

    compiled: int = 0
    loaded: int = 0


@cache
def tally() -> Tally:
    """Return the tally of this process."""
    return Tally()


@lru_cache(maxsize=1)
def kernels_dir() -> Path:
    """Return the folder of these sources' kernels.

    An edit of any file here, another numba or another Python leads to another folder. A kernel's entry
    knows how Python's objects lie in memory.
    """
    digest = hashlib.sha256(f"{numba.__version__} {sys.implementation.cache_tag}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return default_cache_dir().parent / "kernels" / digest.hexdigest()[:16]


class KernelCache(_Cache):  # type: ignore[misc]
    """Disk cache of one numba dispatcher. A disk that cannot be read or written only costs time.

    `name` tells this kernel from all others in these sources, the constants it closes over included.
    `forget` makes the dispatcher forget the code that it compiled.
    """

    def __init__(self, name: str, folder: Path, forget: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._folder = folder
        self._forget = forget
        self._locks: dict[Path, int] = {}  # file descriptors

    @property
    def cache_path(self) -> str:
        return str(self._folder)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the compiled kernel, or None when it is absent or damaged: then the caller compiles it."""
        path = self._path(sig, target_context.codegen())
        payload = _read(path)
        if payload is None:
            self._lock(path)
            payload = _read(path)  # somebody else may have compiled it meanwhile
            if payload is None:
                return None
            self._unlock(path)
        name_runtime()
        # machine code from the user's own folder: a writer to it needs no pickle to run code
        kernel = CompileResult._rebuild(target_context, *pickle.loads(payload))  # noqa: S301
        tally().loaded += 1
        self._refuse_unknown_symbols()
        return kernel

    def save_overload(self, sig: Any, cres: CompileResult) -> None:
        """Keep a kernel that was compiled just now. Raises KernelError when it cannot be linked."""
        path = self._path(sig, cres.codegen)
        tally().compiled += 1
        _log.info("kernel_compiled", kernel=self._name)
        try:
            self._refuse_unknown_symbols()
            # code that holds addresses of this process is of no use to another
            if not cres.library.has_dynamic_globals:
                payload = dumps(cres._reduce())
                with contextlib.suppress(OSError):
                    self._publish(path, hashlib.sha256(payload).digest() + payload)
        finally:
            self._unlock(path)

    def give_up(self) -> None:
        """Let go of the locks of kernels whose compilation has failed: nobody will save them."""
        for path in list(self._locks):
            self._unlock(path)

    def _refuse_unknown_symbols(self) -> None:
        if missing := guard().take_missing():
            self._forget()
            raise KernelError(
                f"kernel {self._name} needs {', '.join(missing)}, which nothing defines"
            )

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = repr((self._name, sig, codegen.magic_tuple()))
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.kernel"

    def _lock(self, path: Path) -> None:
        """Wait until nobody else compiles this kernel, for _LOCK_DEADLINE_S at most."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
            self._locks[path] = descriptor
            deadline = time.monotonic() + _LOCK_DEADLINE_S
            while not try_lock(descriptor) and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _unlock(self, path: Path) -> None:
        descriptor = self._locks.pop(path, None)
        if descriptor is not None:
            # before the lock goes: a process that comes now makes a new file, and finds the kernel
            path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(descriptor)

    def _publish(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def enable(self) -> None:
        """Do nothing: a kernel's cache is always on. Part of numba's interface, as the two below."""

    def disable(self) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError


def _read(path: Path) -> bytes | None:
    """Return the content of a kernel's file, or None unless it is there and whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return payload if hashlib.sha256(payload).digest() == digest else None
