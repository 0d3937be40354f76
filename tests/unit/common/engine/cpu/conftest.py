"""Threads for tests that compile kernels of their own."""

from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

from common.engine.cpu import jit
from common.engine.cpu.parallel import launch_threads
from common.engine.cpu.threads import limit_numba


@pytest.fixture
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Keep a test's kernels in a folder of its own; return the number of threads, which it may limit."""
    monkeypatch.setattr(jit, "kernels_dir", lambda: tmp_path)
    launch_threads()
    before = numba.get_num_threads()
    yield before
    limit_numba(before)
