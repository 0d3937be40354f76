"""Every kernel compiles for aarch64, and asks for nothing there that a process of pdserve lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_aarch64.py")
ROOT = Path(__file__).parents[5]


def check_resolved(cache: Path, *dtypes: str) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *dtypes]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    modules, symbols, *unknown = run.stdout.split()
    assert int(modules) > 30
    assert int(symbols) > 10
    assert unknown == []


def test_kernels_for_bfloat16_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "bfloat16")


@pytest.mark.slow
def test_kernels_for_the_other_dtypes_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "float32", "float16")
