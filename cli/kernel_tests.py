"""Tests of the kernels on this machine's CPU; part of `pdserve doctor`.

1. A child process reports the CPU that it compiles for, and the dtype of `engine.dtype: auto`.
2. For each kernel family and dtype, a child compiles the kernels or loads them from disk.
   It compares their results with those of torch's operations.
3. A child that dies by a signal or does not end is a problem: a worker would do the same.
"""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from cli.findings import Finding
from common.config import Rounding, StoredDtype
from common.engine import kernel_checks
from common.engine.kernel_checks.reports import FamilyReport, TargetReport

Report = TypeVar("Report", TargetReport, FamilyReport)

_CHILD = (sys.executable, "-P", "-m", kernel_checks.__name__)
_DEADLINE_S = 180.0  # kernels compile once, in 13 s of a core; loading them from disk takes 2 s
_MAX_CHILDREN = 4  # at once; each has torch in memory
_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
_TESTS = (
    *(("attention", dtype) for dtype in get_args(StoredDtype)),
    ("int8-kv-attention", "bfloat16"),
    *(("products", dtype) for dtype in get_args(StoredDtype)),
    *((f"{form}-products", "bfloat16") for form in get_args(Rounding)),
    ("sampling", "float32"),
)


class ChildError(Exception):
    """A child process without a report; the message says how the process ended."""


def check_kernels() -> list[Finding]:
    """Test the target, and each family in each dtype, for seconds; a child's death is a finding."""
    with Console(stderr=True).status("asking for the CPU") as status:
        try:
            target = ask(TargetReport, "target")
        except ChildError as error:
            return [Finding("cpu", "cannot be asked for", _problem(error), _overridden())]
        findings = _target_findings(target)
        if target.lack is not None:
            return findings
        return findings + _try_all(target.level, status.update)


def ask(kind: type[Report], *arguments: str, deadline_s: float = _DEADLINE_S) -> Report:
    """Start a child with these arguments and return its report. Raises ChildError."""
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*_CHILD, *arguments], capture_output=True, text=True, timeout=deadline_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"had not ended after {deadline_s:g} s") from error
    if ended.returncode != 0:
        raise ChildError(_how_it_ended(ended.returncode, ended.stderr))
    try:
        return TypeAdapter(kind).validate_json(ended.stdout)
    except ValidationError as error:
        raise ChildError(f"said {ended.stdout.strip()[:80]!r}") from error


def _try_all(level: str, report: Callable[[str], None]) -> list[Finding]:
    workers = max(1, min(_MAX_CHILDREN, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(workers) as pool:
        tried = [pool.submit(_try, level, family, dtype) for family, dtype in _TESTS]
        for done, _ in enumerate(as_completed(tried)):
            report(f"testing kernels ({done + 1} of {len(_TESTS)})")
    return [future.result() for future in tried]


def _try(level: str, family: str, dtype: str) -> Finding:
    name = family if family == "sampling" else f"{family} in {dtype}"
    try:
        tried = ask(FamilyReport, family, dtype)
    except ChildError as error:
        return Finding(name, "the test did not get through", _problem(error))
    if tried.reason is not None:
        return Finding(name, "torch's operations, right and slower", remark=tried.reason)
    return Finding(name, f"kernels for {level} are right; {tried.arithmetic}")


def _target_findings(target: TargetReport) -> list[Finding]:
    findings = [
        Finding("cpu", f"{target.cpu}, level {target.level}", remark=_overridden()),
        Finding("engine.dtype auto", f"{target.dtype}: {target.dtype_reason}"),
    ]
    if target.lack is not None:
        what = "none; torch's operations do everything, right and slower"
        findings.append(Finding("kernels", what, remark=target.lack))
    return findings


def _overridden() -> str | None:
    """Return a remark if environment variables name another CPU than this machine's."""
    found = [f"{name}={os.environ[name]!r}" for name in _VARIABLES if name in os.environ]
    return f"by {', '.join(found)} in the environment" if found else None


def _how_it_ended(code: int, stderr: str) -> str:
    try:
        end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:  # a signal unknown to Python
        end = f"was ended by signal {-code}"
    words = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f"{end}: {words[-1]}" if words else end


def _problem(error: ChildError) -> str:
    workaround = ""
    if platform.machine() == "x86_64":
        workaround = "; NUMBA_CPU_NAME=nehalem NUMBA_CPU_FEATURES= leaves kernels out, workers run"
    return f"its process {error}. Please report this{workaround}"
