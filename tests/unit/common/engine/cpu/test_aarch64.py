"""Every kernel compiles for aarch64, and asks for nothing there that a process of pdserve lacks."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numba
import pytest
from numba.np.ufunc import parallel

SCRIPT = Path(__file__).with_name("on_aarch64.py")
ROOT = Path(__file__).parents[5]
# libgcc's helpers for what an architecture lacks: none may be relied on (aarch64's have other names)
HELPERS = ("__aarch64_", "__trunc", "__extend", "__fix", "__float", "__mul", "__div")


def symbols_of(cache: Path, *dtypes: str) -> set[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *dtypes]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    number, *names = run.stdout.split()
    assert int(number) > 30
    return set(names)


def check_resolved(names: set[str]) -> None:
    # numba's own helpers and those of libm and libc have one name on all architectures
    parallel._launch_threads()
    assert numba.__version__
    unknown = {name for name in names if llvm.address_of_symbol(name) is None}
    helpers = {name for name in names if name.startswith(HELPERS)}
    assert unknown | helpers == set()


def test_kernels_for_bfloat16_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(symbols_of(tmp_path, "bfloat16"))


@pytest.mark.slow
def test_kernels_for_the_other_dtypes_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(symbols_of(tmp_path, "float32", "float16"))
