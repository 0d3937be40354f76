"""Trial of one kernel family in a process of its own, which may die of it.

`python -m common.engine.kernel_checks target`, or `... FAMILY DTYPE`, prints its report as a line of JSON.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.cpu.target import host_target
from common.engine.dtype import choose_dtype
from common.engine.kernel_checks.reports import FamilyReport, TargetReport
from common.engine.kernel_checks.verdicts import (
    AttentionShape,
    attention_verdict,
    products_verdict,
    sampling_verdict,
)
from common.telemetry.logs import configure_logs

_BLOCK_SIZE, _HEAD_DIM, _GROUP, _ACTIVATION = 16, 64, 3, "silu"  # the default model's


def main(what: str, dtype: str = "float32") -> None:
    """Print a report on the target, or on a family in a dtype."""
    configure_logs("error", process="kernel_checks")  # stdout is for the report
    report = _target() if what == "target" else _family(what, dtype)
    print(json.dumps(asdict(report)))


def _target() -> TargetReport:
    target = host_target()
    dtype, reason = "the checkpoint's", "so it is on CUDA"
    if not torch.cuda.is_available():
        chosen = choose_dtype(EngineConfig(), Path(), torch.device("cpu"))
        dtype, reason = chosen.dtype, chosen.reason
    # without kernels a verdict runs nothing, and says why
    lack = None if target.has_kernels else sampling_verdict()
    return TargetReport(target.cpu, target.level, dtype, reason, lack)


def _family(family: str, dtype: str) -> FamilyReport:
    arithmetic = host_target().storage_of(dtype)
    if family.endswith("attention"):
        kv = "int8" if family.startswith("int8") else "none"
        if kv != "none":
            arithmetic = "8-bit keys and values, widened to float32"
        shape = AttentionShape(
            dtype, _BLOCK_SIZE, _HEAD_DIM, _GROUP, has_extras=True, kv_quantization=kv
        )
        return FamilyReport(attention_verdict(shape), arithmetic)
    if family.endswith("products"):
        quantization = family.removesuffix("products").rstrip("-") or "none"
        if quantization != "none":
            arithmetic = f"small integers, {host_target().integer_arithmetic}"
        return FamilyReport(products_verdict(dtype, _ACTIVATION, quantization), arithmetic)
    return FamilyReport(sampling_verdict(), arithmetic)


if __name__ == "__main__":
    main(*sys.argv[1:])
