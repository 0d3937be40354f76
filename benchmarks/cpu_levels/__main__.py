"""Speed of each CPU level of this machine, in float32 and bfloat16, with our kernels and torch's.

Each combination is a process of its own, in which numba (and for torch oneDNN, MKL and ATen)
compiles for that level. The processes of a level are measured in turns; torch's only in the first
round.

Usage: python -m benchmarks.cpu_levels [--rounds N]
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.environment import describe, write_result
from common.cache_dir import default_cache_dir
from common.engine.cpu.target import host_target
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

# LLVM's name and features of a CPU of each level. The last has the bfloat16 dot product, and no
# instruction that Intel's CPUs lack.
_NAMES = {
    "avx2": ("haswell", ""),
    "avx512": ("skylake-avx512", ""),
    "avx512-bf16": ("znver4", "-sse4a"),
}
_BELOW = ("nehalem", "")  # a CPU that our kernels do not support
# settings that limit torch's libraries to a level
_LIBRARIES = {
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE_VNNI", "AVX512"),
    "avx512-bf16": ("avx512", "AVX512_CORE_BF16", "AVX512_E1"),
}
_WORK = ("decode 1", "decode 8", "decode 32", "prefill 512", "prefill 2000")


@dataclass(slots=True)
class Contender:
    """One process (a level, a dtype, and the owner of the operations) and its times in ms."""

    level: str
    dtype: str
    whose: str  # "panels" or "torch"
    process: "subprocess.Popen[str]"
    samples: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, work: str) -> float:
        """Run some work once in the process; return milliseconds."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("no pipe")
        self.process.stdin.write(f"{work}\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Samples per figure of our kernels")] = 5,
    level: Annotated[list[str] | None, typer.Option(help="Only these levels")] = None,
    torch: Annotated[bool, typer.Option(help="Measure torch's operations too")] = True,
) -> None:
    """Measure and write benchmarks/results/cpu_levels.json."""
    console = Console()
    owners = ("panels", "torch") if torch else ("panels",)
    figures: dict[str, dict[str, float]] = {}
    for one in runnable_levels():
        if not level or one in level:
            figures |= _measure(one, owners, rounds)
    path = write_result("cpu_levels", {"rounds": rounds, "ms": figures})
    _print(console, figures)
    console.print(f"written to {path.name}; CPU {describe()['cpu']}")


def _measure(level: str, owners: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Measure one level's processes in turns; those of all levels would not fit memory."""
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(_started(level, dtype, whose))
            for dtype in ("float32", "bfloat16")
            for whose in owners
        ]
        for contender in contenders:
            contender.ask("ready")
        for turn in track(range(rounds), description=level):
            for work in _WORK:
                for contender in contenders:
                    # torch's bfloat16 takes minutes on a CPU without an instruction for it
                    if turn == 0 or contender.whose == "panels":
                        contender.samples.setdefault(work, []).append(contender.ask(work))
    return {
        f"{one.level} {one.dtype} {one.whose}": {
            work: round(statistics.median(samples), 2) for work, samples in one.samples.items()
        }
        for one in contenders
    }


def runnable_levels() -> list[str]:
    """Return the levels whose instructions this machine has, lowest first."""
    known = list(_NAMES)
    own = host_target().level
    return known[: known.index(own) + 1] if own in known else []


@contextmanager
def _started(level: str, dtype: str, whose: str) -> Iterator[Contender]:
    capability, onednn, mkl = _LIBRARIES[level]
    name, features = _NAMES[level] if whose == "panels" else _BELOW
    environment = os.environ | {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "ATEN_CPU_CAPABILITY": capability,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }
    folder = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    command = [sys.executable, "-m", f"{__package__}.child", str(folder), dtype]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Contender(level, dtype, whose, process)
        finally:
            process.kill()


def _print(console: Console, figures: dict[str, dict[str, float]]) -> None:
    table = Table("ms", *_WORK)
    for name, values in figures.items():
        table.add_row(name, *(f"{values[work]:.1f}" for work in _WORK))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
