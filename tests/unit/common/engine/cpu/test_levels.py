"""Kernels are right on every CPU that this one can stand in for; `make test-cpus` runs far more on each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.engine.cpu.target import host_target

# LLVM's name, and the level that the host must have; its code runs on the host
CPUS = {"haswell": "avx2", "skylake-avx512": "avx512"}
ORDER = ["baseline", "avx2", "avx512", "avx512-bf16"]
ROOT = Path(__file__).parents[5]


def report_on(cpu: str, *what: str) -> dict[str, object]:
    named = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "common.engine.kernel_checks", *what]
    run = subprocess.run(
        command, env=os.environ | named, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, object] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("family", ["attention", "products", "sampling"])
@pytest.mark.parametrize("cpu", CPUS)
def test_every_family_gives_torchs_numbers_in_bfloat16(cpu: str, family: str) -> None:
    own = host_target().level
    if own not in ORDER or ORDER.index(own) < ORDER.index(CPUS[cpu]):
        pytest.skip(f"this machine has not the instructions of {cpu}")
    assert report_on(cpu, "target")["level"] == CPUS[cpu]
    assert report_on(cpu, family, "bfloat16")["reason"] is None


def test_below_x86_64_v3_torch_does_it_all_and_says_why() -> None:
    if host_target().level not in ORDER:
        pytest.skip("no x86-64")
    assert report_on("nehalem", "target")["level"] == "baseline"
    reason = report_on("nehalem", "products", "float32")["reason"]
    assert reason == "nehalem has no AVX2 with FMA and F16C"
