"""Sampling kernels compile for aarch64. A file for each family, so that processes share the work."""

from pathlib import Path

from tests.unit.common.engine.cpu.aarch64 import check_resolved


def test_kernels_for_bfloat16_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "sampling", "bfloat16")
