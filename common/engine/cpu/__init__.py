"""Kernels for the CPU. Their compiled forms are kept in a folder named after their sources' hash.

numba looks only at the file of the function that it compiles: without this, an edit of the instructions that
a kernel is made of would go on running the old ones.
"""

import contextlib
import hashlib
from pathlib import Path

import numba

from common.engine.weights.cache import default_cache_dir


def _cache_dir() -> Path:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return default_cache_dir().parent / "kernels" / digest.hexdigest()[:16]


with contextlib.suppress(
    OSError
):  # a read-only home: numba then finds a place, or compiles each time
    _cache_dir().mkdir(parents=True, exist_ok=True)
    numba.config.CACHE_DIR = str(_cache_dir())
