"""What a process that tries kernels says to whoever started it: one line of JSON. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TargetReport:
    """The CPU that kernels are compiled for, and what follows from it."""

    cpu: str  # LLVM's name
    level: str
    dtype: str  # that `engine.dtype: auto` gives
    dtype_reason: str
    lack: str | None  # why no kernel can run here


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """One kernel family in one dtype, tried."""

    reason: str | None  # to leave the family to torch's operations
    arithmetic: str  # in words
