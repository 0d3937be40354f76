"""CPU that kernels are compiled for, and how each kernel family computes on it.

The target is numba's own: the host, or the CPU that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name, so that
another CPU can be tried on this one. No list of names says which instructions it has: LLVM compiles a few
lines for it, and the assembly tells.

| level | vectors | products by panels of | bfloat16 products |
|---|---|---|---|
| avx512-bf16 | 16 float32 | 32 outputs, 12 rows | AMD: pairs, by the dot product; Intel: as avx512 |
| avx512 | 16 | 32, 12 rows | widened in registers, float32 arithmetic |
| avx2 (x86-64-v3) | 8 | 16, 6 rows | widened |
| neon (aarch64) | 8 in two registers | 16, 6 rows | widened |
| baseline | none | torch's operations | torch's |
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import llvmlite.binding as llvm
import numba
from numba.core.codegen import get_host_cpu_features

Level = Literal["avx512-bf16", "avx512", "avx2", "neon", "baseline"]
# what one instruction multiplies and sums: four bytes a lane, or two 16-bit integers
IntegerDot = Literal["bytes", "pairs", "none"]

_AMD = "znver"

_PROBE = """
declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)
define void @wide(ptr %p) {
  %x = load <16 x float>, ptr %p, align 4
  %y = fadd <16 x float> %x, %x
  store <16 x float> %y, ptr %p, align 4
  ret void
}
define void @fused(ptr %p) {
  %x = load <8 x float>, ptr %p, align 4
  %y = call <8 x float> @llvm.fma.v8f32(<8 x float> %x, <8 x float> %x, <8 x float> %x)
  store <8 x float> %y, ptr %p, align 4
  ret void
}
define void @half(ptr %p) {
  %x = load <8 x float>, ptr %p, align 4
  %y = fptrunc <8 x float> %x to <8 x half>
  store <8 x half> %y, ptr %p, align 4
  ret void
}
define void @brain(ptr %p) {
  %x = load <16 x float>, ptr %p, align 4
  %y = fptrunc <16 x float> %x to <16 x bfloat>
  store <16 x bfloat> %y, ptr %p, align 4
  ret void
}
define void @whole(ptr %p) {
  %x = load <8 x i32>, ptr %p, align 4
  %y = add <8 x i32> %x, %x
  store <8 x i32> %y, ptr %p, align 4
  ret void
}
"""

# LLVM makes one instruction of it where the CPU multiplies bytes and sums four of them
_BYTES_PROBE = """
declare i32 @llvm.vector.reduce.add.v64i32(<64 x i32>)
define i32 @bytes(ptr %p, ptr %q) {
  %x = load <64 x i8>, ptr %p, align 1
  %y = load <64 x i8>, ptr %q, align 1
  %a = zext <64 x i8> %x to <64 x i32>
  %b = sext <64 x i8> %y to <64 x i32>
  %m = mul <64 x i32> %a, %b
  %s = call i32 @llvm.vector.reduce.add.v64i32(<64 x i32> %m)
  ret i32 %s
}
"""

# whether vectors of 512 bits hold 16-bit integers too (AVX512BW)
_SHORTS_PROBE = """
define void @shorts(ptr %p) {
  %x = load <32 x i16>, ptr %p, align 2
  %y = add <32 x i16> %x, %x
  store <32 x i16> %y, ptr %p, align 2
  ret void
}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Kind of CPU, with the numbers that shape the kernels."""

    cpu: str  # LLVM's name
    level: Level
    integer_dot: IntegerDot = "none"  # for products with small integers; "none" widens them

    @property
    def lanes(self) -> int:
        """float32 numbers in a kernel's vector."""
        return 16 if self.level.startswith("avx512") else 8

    @property
    def tile_rows(self) -> int:
        """Rows whose sums over two vectors fill the registers but for what is multiplied."""
        return 12 if self.level.startswith("avx512") else 6

    @property
    def integer_tile_rows(self) -> int:
        """Rows of integers that a tile has: their sums over two vectors leave room for masks of levels."""
        return 6 if self.level.startswith("avx512") else 5

    @property
    def attention_rows(self) -> int:
        """Rows whose scores over one vector stay in registers; 16 registers hold fewer."""
        return 8 if self.level == "avx2" else 12

    @property
    def score_sums(self) -> int:
        """Vectors of scores that are summed up at a time."""
        return 16 if self.level.startswith("avx512") else 12

    @property
    def value_sums(self) -> int:
        """Vectors of weighted values that are summed up at a time."""
        return 16 if self.level.startswith("avx512") else 8

    @property
    def has_bf16_dot(self) -> bool:
        """True where an instruction multiplies pairs of bfloat16 faster than widening them does.

        AMD's runs at twice the rate of float32 products. On an Intel Xeon prompts took 1.5 x the time with it
        (benchmarks/results/cpu_levels.json).
        """
        return self.level == "avx512-bf16" and self.cpu.startswith(_AMD)

    @property
    def prefers_bfloat16(self) -> bool:
        """True where bfloat16 weights are at least as fast as float32 ones, all in all.

        Measured (benchmarks/results/cpu_levels.json): a decode step of one row takes 0.5 to 0.6 x the time,
        and a prompt 0.95 to 1.07 x.
        """
        return self.has_kernels

    @property
    def has_kernels(self) -> bool:
        """True where our kernels can run; else torch's operations do everything."""
        return self.level != "baseline"

    @property
    def integer_arithmetic(self) -> str:
        """Describe in words how products with small integers are computed here, in groups of 32 and more."""
        words = {"bytes": "by bytes", "pairs": "by pairs of 16 bits", "none": "widened to float32"}
        return words[self.integer_dot]

    def storage_of(self, dtype: str) -> str:
        """Describe in words the arithmetic that products of a dtype have here."""
        if not self.has_kernels:
            return "torch's operations"
        if dtype == "float32":
            return "float32"
        if dtype == "bfloat16" and self.has_bf16_dot:
            return "bfloat16 pairs, float32 sums"
        return "widened to float32"


@cache
def host_target() -> Target:
    """Return the target of this process, as the module describes it."""
    cpu = numba.config.CPU_NAME or llvm.get_host_cpu_name()
    features = numba.config.CPU_FEATURES
    return describe(
        llvm.get_process_triple(), cpu, get_host_cpu_features() if features is None else features
    )


def describe(triple: str, cpu: str, features: str) -> Target:
    """Return the target that LLVM knows by these names. Its architecture must be initialized."""
    if triple.startswith(("aarch64", "arm64")):
        return Target(cpu, "neon")
    if not triple.startswith("x86_64"):
        return Target(cpu, "baseline")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    level = _level(machine.emit_assembly(llvm.parse_assembly(_PROBE)))
    return Target(cpu, level, _integer_dot(machine, level))


def _integer_dot(machine: llvm.TargetMachine, level: Level) -> IntegerDot:
    """Return what multiplies integers in vectors as wide as the level's; AVX2 has pairs."""
    if not level.startswith("avx512"):
        return "pairs" if level == "avx2" else "none"
    if "vpdpbusd" in machine.emit_assembly(llvm.parse_assembly(_BYTES_PROBE)):
        return "bytes"
    shorts = machine.emit_assembly(llvm.parse_assembly(_SHORTS_PROBE))
    return "pairs" if "zmm" in shorts else "none"


def _level(assembly: str) -> Level:
    # F16C and FMA came before AVX2 or with it; a virtual machine may still hide any of them
    if "vfmadd" not in assembly or "vcvtps2ph" not in assembly:
        return "baseline"
    if "zmm" in assembly:
        return "avx512-bf16" if "vcvtneps2bf16" in assembly else "avx512"
    return "avx2" if "vpaddd\t%ymm" in assembly or "vpaddd\t(%" in assembly else "baseline"
