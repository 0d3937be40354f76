"""Every kernel compiles for aarch64, and asks for nothing there that a process of pdserve lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_aarch64.py")
ROOT = Path(__file__).parents[5]


# each in a process and a test of its own: all in one outlast the deadline on a busy machine
FAMILIES = ["attention", "products", "sampling"]


def check_resolved(cache: Path, family: str, *dtypes: str) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), family, *dtypes]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    modules, symbols, *unknown = run.stdout.split()
    assert int(modules) > 30
    assert int(symbols) > 10
    assert unknown == []


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_for_bfloat16_compile_for_aarch64(tmp_path: Path, family: str) -> None:
    check_resolved(tmp_path, family, "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["attention", "products"])
def test_kernels_for_the_other_dtypes_compile_for_aarch64(tmp_path: Path, family: str) -> None:
    check_resolved(tmp_path, family, "float32", "float16")
