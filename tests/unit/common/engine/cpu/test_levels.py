"""Kernels are right on every CPU that this one can stand in for; `make test-cpus` runs far more on each."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from common.engine.cpu.target import host_target
from tests.patience import DEPLOYMENT_S

# LLVM's name, and the level that the host must have; its code runs on the host
CPUS = {"haswell": "avx2", "skylake-avx512": "avx512"}
ORDER = ["baseline", "avx2", "avx512", "avx512-bf16"]
FAMILIES = ("attention", "products", "int4-products", "sampling")
PRODUCTS = ("products", "int4-products")
# the vectors of this CPU are as wide as those of CPUs that can do more, where all other tests run: of its
# other families only the rounding to bfloat16 is its own
WIDE, OTHERS = "skylake-avx512", ("attention", "sampling")


def slow_if(is_slow: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] * is_slow


# so are kernels of the host's own level: all other tests run them
CASES = [
    pytest.param(cpu, families, family, marks=slow_if(is_slow or CPUS[cpu] == host_target().level))
    for cpu, families, is_slow in (
        ("haswell", FAMILIES, False),
        (WIDE, PRODUCTS, False),
        (WIDE, OTHERS, True),
    )
    for family in families
]
ROOT = Path(__file__).parents[5]
# what each argument asks of common.engine.kernel_checks, in one process
SCRIPT = """
import sys
from common.engine.kernel_checks.__main__ import main

for what in sys.argv[1:]:
    main(*what.split())
"""

# a process compiles all kernels of a CPU
pytestmark = pytest.mark.timeout(DEPLOYMENT_S)


@cache
def reports_on(cpu: str, *asked: str) -> dict[str, dict[str, object]]:
    """Return the report on each "FAMILY DTYPE", or on the "target", as that CPU gives it."""
    named = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *asked],
        env=os.environ | named,
        capture_output=True,
        text=True,
        timeout=DEPLOYMENT_S - 30,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(zip(asked, map(json.loads, run.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(("cpu", "families", "family"), CASES)
def test_every_family_gives_torchs_numbers_in_bfloat16(
    cpu: str, families: tuple[str, ...], family: str
) -> None:
    own = host_target().level
    if own not in ORDER or ORDER.index(own) < ORDER.index(CPUS[cpu]):
        pytest.skip(f"this machine has not the instructions of {cpu}")
    reports = reports_on(cpu, "target", *(f"{one} bfloat16" for one in families))
    assert reports["target"]["level"] == CPUS[cpu]
    assert reports[f"{family} bfloat16"]["reason"] is None


@pytest.mark.slow  # the doctor's tests say the same of this CPU, in a process of theirs
def test_below_x86_64_v3_torch_does_it_all_and_says_why() -> None:
    if host_target().level not in ORDER:
        pytest.skip("no x86-64")
    reports = reports_on("nehalem", "target", "products float32")
    assert reports["target"]["level"] == "baseline"
    assert reports["products float32"]["reason"] == "nehalem has no AVX2 with FMA and F16C"
