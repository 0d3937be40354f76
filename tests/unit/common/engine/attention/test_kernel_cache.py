"""A kernel is compiled once a machine: the next process finds it on disk."""

import os
import subprocess
import sys
from pathlib import Path

import torch  # noqa: F401  # first, so that numba shares its threads

from common.engine.cpu.attention_kernel import attention_kernel, shape_of

_COMPILE = """
import torch  # first, so that numba shares its threads
from common.engine.cpu.attention_kernel import attention_kernel, shape_of
stats = attention_kernel(shape_of(16, (16, 16), 1, "float32"), "float32").stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def compile_in_new_process() -> list[int]:
    """Count cache hits and misses of one kernel."""
    root = Path(__file__).parents[5]
    result = subprocess.run(
        [sys.executable, "-c", _COMPILE],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in result.stdout.split()]


def test_the_second_process_compiles_nothing() -> None:
    attention_kernel(shape_of(16, (16, 16), 1, "float32"), "float32")  # in the first one, this
    assert compile_in_new_process() == [1, 0]
