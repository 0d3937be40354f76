"""Kernels of every family compile for aarch64, and ask for nothing that a process of pdserve lacks there."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.patience import DEPLOYMENT_S

SCRIPT = Path(__file__).with_name("on_aarch64.py")
ROOT = Path(__file__).parents[5]
# one process compiles them all: to start one takes as long as a kernel does
QUICK = ("attention bfloat16", "products bfloat16", "sampling float32")
SLOW = (
    *(f"attention {dtype}" for dtype in ("float32", "float16")),
    *(f"latent-attention {dtype}" for dtype in ("float32", "bfloat16", "float16")),
    *(f"products {dtype}" for dtype in ("float32", "float16")),
    *("int8-kv-attention bfloat16", "int4-products bfloat16"),
)

# a process compiles many kernels
pytestmark = pytest.mark.timeout(DEPLOYMENT_S)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder without compiled kernels."""
    return tmp_path_factory.mktemp("cache")


@cache
def compiled(folder: Path, *asked: str) -> dict[str, tuple[int, int, list[str]]]:
    """Return the number of modules of each "FAMILY DTYPE", that of their symbols, and unknown ones."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *asked],
        env=os.environ | {"XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEPLOYMENT_S - 30,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(zip(asked, map(json.loads, run.stdout.splitlines()), strict=True))


def check(folder: Path, family: str, *asked: str) -> None:
    num_modules, num_symbols, unknown = compiled(folder, *asked)[family]
    assert num_modules >= 1
    assert num_symbols > 10
    assert unknown == []


@pytest.mark.parametrize("family", QUICK)
def test_kernels_compile_for_aarch64(empty: Path, family: str) -> None:
    check(empty, family, *QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("family", SLOW)
def test_kernels_of_other_dtypes_and_forms_do_too(tmp_path: Path, family: str) -> None:
    check(tmp_path, family, family)
