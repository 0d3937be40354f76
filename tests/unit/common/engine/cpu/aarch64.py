"""Compilation of a family of kernels for aarch64, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("on_aarch64.py")
ROOT = Path(__file__).parents[5]


def check_resolved(cache: Path, family: str, *dtypes: str) -> None:
    """Check that a family's kernels compile, and ask for nothing that a process of pdserve lacks there."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), family, *dtypes]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    modules, symbols, *unknown = run.stdout.split()
    assert int(modules) >= max(len(dtypes), 1)  # one a kernel
    assert int(symbols) > 10
    assert unknown == []
