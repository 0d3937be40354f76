"""Kernels that are compiled for another CPU, and not run."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# it would write 3 where a bit is 0
SCRIPT = """
import scripts.compile_kernels
import numpy as np
from common.engine.cpu.kernel_cache import tally
from common.engine.cpu.masking import mask_rows

logits = np.ones((1, 40), np.float32)
mask_rows(logits, np.zeros(1, np.int64), np.zeros((1, 2), np.int32), np.float32(3))
print(tally().compiled, logits.sum())
"""


def test_a_call_compiles_a_kernel_and_leaves_arrays_as_they_are(tmp_path: Path) -> None:
    named = {"NUMBA_CPU_NAME": "znver4", "NUMBA_CPU_FEATURES": "", "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | named | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.endswith("1 40.0\n"), run.stderr[-2000:]
    assert len(list(tmp_path.rglob("*.kernel"))) == 1
