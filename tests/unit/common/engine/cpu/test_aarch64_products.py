"""Kernels of a fused layer compile for aarch64. A file for each family, so that processes share the work."""

from pathlib import Path

import pytest

from tests.unit.common.engine.cpu.aarch64 import check_resolved


def test_kernels_for_bfloat16_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "products", "bfloat16")


@pytest.mark.slow
def test_kernels_for_quantized_weights_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "int4-products", "bfloat16")


@pytest.mark.slow
def test_kernels_for_the_other_dtypes_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "products", "float32", "float16")
