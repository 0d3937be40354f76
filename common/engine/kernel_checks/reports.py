"""Reports of a process that tries kernels, each one line of JSON. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TargetReport:
    """CPU that kernels are compiled for, and the choices that follow from it."""

    cpu: str  # LLVM's name
    level: str
    dtype: str  # that `engine.dtype: auto` gives
    dtype_reason: str
    lack: str | None  # why no kernel can run here


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """Result of trying one kernel family in one dtype."""

    reason: str | None  # to leave the family to torch's operations
    arithmetic: str  # in words
