"""Folder of the cache, which outlives processes: models, compiled kernels and measured profiles."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return the folder of converted models: `$XDG_CACHE_HOME/pdserve/models`, or under `~/.cache`.

    Entry points pass it on to whoever looks for a model. Kernels (engine/cpu/kernel_cache.py) and profiles
    (engine/profiling/profile_cache.py) lie beside it: these two ask here themselves, in each process.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG rules say to ignore a relative path.
    root = base if base.is_absolute() else Path.home() / ".cache"
    return root / "pdserve" / "models"
