"""Targets that LLVM derives from CPU names, checked against their makers' data."""

import os
import platform

import llvmlite.binding as llvm
import pytest

from common.engine.cpu.target import IntegerDot, Level, Target, describe, host_target

X86 = "x86_64-unknown-linux-gnu"
LEVELS: dict[Level, str] = {
    "baseline": "x86-64 x86-64-v2 core2 nehalem sandybridge ivybridge generic",
    "avx2": "x86-64-v3 haswell broadwell skylake alderlake znver1 znver2 znver3",
    "avx512": "x86-64-v4 skylake-avx512 cascadelake icelake-server tigerlake",
    "avx512-bf16": "cooperlake sapphirerapids emeraldrapids znver4 znver5",
}
# what a virtual machine hides, or a user adds
FEATURES: list[tuple[str, str, Level]] = [
    ("haswell", "-fma", "baseline"),
    ("haswell", "-f16c", "baseline"),
    ("haswell", "-avx2", "baseline"),
    ("haswell", "-avx", "baseline"),
    ("skylake-avx512", "-avx512f", "avx2"),
    ("znver4", "-avx512f", "avx2"),
    ("sapphirerapids", "-avx512bf16", "avx512"),
    ("skylake-avx512", "+avx512bf16", "avx512-bf16"),
    ("skylake-avx512", "+prefer-256-bit", "avx512"),
    ("x86-64", "+avx2,+fma,+f16c", "avx2"),
    ("nehalem", "+avx2", "baseline"),
]
# with AVX512-VNNI
BYTE_DOT = {
    "cascadelake",
    "icelake-server",
    "tigerlake",
    "cooperlake",
    "sapphirerapids",
    "emeraldrapids",
    "znver4",
    "znver5",
}
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM knows the host's kind")


@on_x86
@pytest.mark.parametrize(
    ("cpu", "level"), [(cpu, level) for level, cpus in LEVELS.items() for cpu in cpus.split()]
)
def test_a_cpu_has_the_level_of_its_instructions(cpu: str, level: Level) -> None:
    dot: IntegerDot = "bytes" if cpu in BYTE_DOT else "none" if level == "baseline" else "pairs"
    assert describe(X86, cpu, "") == Target(cpu, level, integer_dot=dot)


@on_x86
@pytest.mark.parametrize(("cpu", "features", "level"), FEATURES)
def test_features_count_and_not_the_name(cpu: str, features: str, level: Level) -> None:
    assert describe(X86, cpu, features).level == level


@on_x86
@pytest.mark.parametrize(
    ("cpu", "features", "dot"),
    [
        ("skylake-avx512", "+avx512vnni", "bytes"),
        ("icelake-server", "-avx512vnni", "pairs"),
        ("znver4", "-avx512f", "pairs"),
        ("alderlake", "", "pairs"),  # its instruction for bytes is one of 256 bits
        ("skylake-avx512", "-avx512bw", "none"),  # vectors of 512 bits hold no 16-bit integers
    ],
)
def test_integers_are_multiplied_by_what_has_vectors_of_the_level(
    cpu: str, features: str, dot: IntegerDot
) -> None:
    assert describe(X86, cpu, features).integer_dot == dot


def test_other_architectures_are_known_by_their_triple() -> None:
    for triple in ("aarch64-unknown-linux-gnu", "arm64-apple-darwin"):
        assert describe(triple, "neoverse-v1", "") == Target("neoverse-v1", "neon")
    for triple in ("riscv64-unknown-linux-gnu", "powerpc64le-linux-gnu", "i686-pc-linux-gnu"):
        assert describe(triple, "any", "") == Target("any", "baseline")


def test_the_target_is_the_host_or_what_the_environment_says() -> None:
    assert host_target() is host_target()
    assert host_target().cpu == (os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name())


@pytest.mark.parametrize("level", ["avx512-bf16", "avx512", "avx2", "neon"])
def test_tiles_fit_the_registers(level: Level) -> None:
    """Sums over two vectors, the two vectors of weights and one number of the rows."""
    target = Target("any", level)
    registers = {"avx512-bf16": 32, "avx512": 32, "avx2": 16, "neon": 32}[level]
    each = target.lanes // {"avx512-bf16": 16, "avx512": 16, "avx2": 8, "neon": 4}[level]
    assert (2 * target.tile_rows + 2) * each + 1 <= registers
    assert target.attention_rows * each < registers
    assert max(target.score_sums, target.value_sums) * each < registers


def test_arithmetic_is_told_in_words() -> None:
    fast, wide, none = (Target("znver4", k) for k in ("avx512-bf16", "avx2", "baseline"))
    assert fast.storage_of("bfloat16") == "bfloat16 pairs, float32 sums"
    assert wide.storage_of("bfloat16") == fast.storage_of("float16") == "widened to float32"
    # Intel's instruction is slower than to widen
    assert Target("sapphirerapids", "avx512-bf16").storage_of("bfloat16") == "widened to float32"
    assert fast.storage_of("float32") == wide.storage_of("float32") == "float32"
    assert {none.storage_of(k) for k in ("float32", "bfloat16")} == {"torch's operations"}
