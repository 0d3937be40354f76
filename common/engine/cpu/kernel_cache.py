"""Compiled kernels on disk, safe for any number of processes that compile at once.

numba's own cache numbers its files through an index that each process reads and writes back: two that save
different signatures at one time take the same number, and a later process runs the wrong machine code.
Here a file's name is the hash of everything that makes the code what it is, so there is no index to race
for. Writers of one name write the same thing, and a file appears whole or not at all.
"""

import contextlib
import hashlib
import os
import pickle
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from common.engine.weights.cache import default_cache_dir

_DIGEST_BYTES = 32


@lru_cache(maxsize=1)
def kernels_dir() -> Path:
    """The folder of these sources' kernels: an edit of any file here leads to another folder."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return default_cache_dir().parent / "kernels" / digest.hexdigest()[:16]


class KernelCache(_Cache):  # type: ignore[misc]
    """What a numba dispatcher asks for and saves. A disk that cannot be read or written only costs time.

    `name` tells this kernel from all others in these sources, the constants it closes over included.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder

    @property
    def cache_path(self) -> str:
        return str(self._folder)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """The compiled kernel, or None when it is absent or damaged."""
        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes()
        except OSError:
            return None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        # machine code from the user's own folder: whoever can write there needs no pickle to run code
        return CompileResult._rebuild(target_context, *pickle.loads(payload))  # noqa: S301

    def save_overload(self, sig: Any, cres: CompileResult) -> None:
        # code that holds addresses of this process is of no use to another
        if cres.library.has_dynamic_globals:
            return
        payload = dumps(cres._reduce())
        with contextlib.suppress(OSError):
            self._publish(self._path(sig, cres.codegen), hashlib.sha256(payload).digest() + payload)

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = repr((self._name, sig, codegen.magic_tuple()))
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.kernel"

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
        """A kernel's cache is always on; part of numba's interface, as the two below."""

    def disable(self) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError
