"""Attention kernels compile for aarch64. A file for each family, so that processes share the work."""

from pathlib import Path

import pytest

from tests.unit.common.engine.cpu.aarch64 import check_resolved


def test_kernels_for_bfloat16_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "attention", "bfloat16")


@pytest.mark.slow
def test_kernels_for_the_other_dtypes_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "attention", "float32", "float16")


@pytest.mark.slow
def test_kernels_for_8_bit_keys_and_values_compile_for_aarch64(tmp_path: Path) -> None:
    check_resolved(tmp_path, "int8-kv-attention", "bfloat16")
