"""A kernel is compiled once a machine: the next process finds it on disk, and mixes it up with no other."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest

from tests.unit.common.engine.attention.paged import Shape

_COMPILE = """
import torch  # first, so that numba shares its threads
from common.engine.cpu.attention_kernel import attention_kernel
stats = attention_kernel(16, 16, 1, "float32").stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
_ATTEND = """
import torch
from tests.unit.common.engine.attention.paged import Shape, Step, Turn, attend_dense, attend_paged
step, turns = Step(), [Turn(20, 1, 1), Turn(0, 33, 2)]
for shape in {shapes}:
    for turn, output in zip(turns, attend_paged("cpu", shape, turns, step)):
        torch.testing.assert_close(output.double(), attend_dense(shape, turn, step), atol=2e-5, rtol=2e-5)
"""
_SHAPES = [Shape(16, 16, 1, 1), Shape(16, 32, 1, 1)]


def run_in_new_process(source: str, cache: Path | None = None) -> str:
    root = Path(__file__).parents[5]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    result = subprocess.run(
        [sys.executable, "-c", source], cwd=root, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_the_second_process_compiles_nothing() -> None:
    run_in_new_process(_COMPILE)
    assert run_in_new_process(_COMPILE).split() == ["1", "0"]


@pytest.mark.timeout(240)
def test_kernels_that_two_processes_compiled_serve_a_third_together(tmp_path: Path) -> None:
    """Each process counts its functions from the start, so that their names are the same."""
    alone = [_ATTEND.format(shapes=[shape]) for shape in _SHAPES]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run_in_new_process, alone, repeat(tmp_path)))
    run_in_new_process(_ATTEND.format(shapes=_SHAPES), tmp_path)
