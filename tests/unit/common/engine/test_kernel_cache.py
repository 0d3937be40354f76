"""Kernels on disk: the right ones come back while others compile, and damage only costs time."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest

from common.engine.cpu.kernel_cache import KernelCache, kernels_dir
from tests.patience import WITHIN_S

SCRIPT = """
import sys
from pathlib import Path
import numba, numpy as np
from common.engine.cpu.kernel_cache import KernelCache, tally
from common.telemetry.logs import configure_logs

configure_logs("error", process="test")  # stdout is for results

scale, folder, barrier = float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

@numba.njit
def scaled(x):
    return x * scale

scaled._cache = KernelCache(f"scaled/{scale}", folder)
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
kinds = [np.float32, np.float64, np.int32, np.int64, np.int16, np.uint8]
for kind in kinds if barrier == "up" else kinds[::-1]:
    assert scaled(np.array([3], kind))[0] == 3 * scale, kind
print(tally().compiled, tally().loaded)
"""

HOLD = """
import fcntl, os, signal, sys
fcntl.flock(os.open(sys.argv[1], os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""
LONG = "\n            ".join(f"x[i] = np.sin(x[i] + constant) * {k} + constant" for k in range(60))
WITH_A_PART = f"""
import sys
import numpy as np
from common.engine.cpu.jit import kernel, part
from common.telemetry.logs import configure_logs

configure_logs("error", process="test")  # stdout is for results

def make(constant):
    @part(variant=str(constant))
    def long(x):
        for i in range(x.shape[0]):
            {LONG}

    @kernel(variant=str(constant))
    def run(x):
        long(x)
    return run

for constant in map(int, sys.argv[1:]):
    x = np.zeros(3)
    make(constant)(x)
    print(x[0])
"""


def start(scale: float, folder: Path, order: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(scale), str(folder), order]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Tally(NamedTuple):
    """Kernels that a process has compiled or loaded."""

    compiled: int
    loaded: int


def run_all(processes: list[subprocess.Popen[str]]) -> list[Tally]:
    """Let all begin at one time; return each one's tally."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate(timeout=WITHIN_S)[0])
        assert process.returncode == 0
    return [Tally(*map(int, output.split())) for output in outputs]


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tally]]:
    """Return the folder in which four processes have compiled at once, and their tallies."""
    folder = tmp_path_factory.mktemp("kernels")
    kernels = [(2.0, "up"), (2.0, "down"), (3.0, "up"), (3.0, "up")]
    return folder, run_all([start(scale, folder, order) for scale, order in kernels])


def test_processes_that_compile_at_once_keep_each_others_kernels(
    at_once: tuple[Path, list[Tally]],
) -> None:
    folder, _ = at_once
    loaded = Tally(compiled=0, loaded=6)
    assert run_all([start(scale, folder, "up") for scale in (2.0, 3.0)]) == [loaded, loaded]
    assert len(list(folder.iterdir())) == 12  # one for each constant and type, and no leftovers


@pytest.mark.parametrize("first", [0, 2], ids=["up, down", "up, up"])
def test_processes_that_need_a_kernel_at_once_compile_it_once(
    at_once: tuple[Path, list[Tally]], first: int
) -> None:
    """The first takes the kernel's lock; the other waits for it, and loads the saved kernel."""
    tallies = at_once[1][first : first + 2]
    assert sum(tally.compiled for tally in tallies) == 6
    assert all(tally.compiled + tally.loaded == 6 for tally in tallies)


def test_who_dies_while_it_compiles_holds_nobody_up(tmp_path: Path) -> None:
    """The system takes a dead process's lock back; another process then compiles."""
    doubled(tmp_path)
    (kernel,) = tmp_path.iterdir()
    lock = kernel.with_suffix(".lock")
    kernel.unlink()
    dying = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert dying.stdout is not None
    assert dying.stdout.readline() == "held\n"
    waiting = threading.Thread(target=doubled, args=(tmp_path,), daemon=True)
    waiting.start()
    dying.kill()
    dying.communicate(timeout=WITHIN_S)
    waiting.join(WITHIN_S)
    assert [path.name for path in tmp_path.iterdir()] == [kernel.name]


def run_with_a_part(cache: Path, *runs: str) -> list[str]:
    """Return results of kernels of these constants, each run in a process of its own, at one time."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", WITH_A_PART]
    processes = [
        subprocess.Popen(
            [*command, *run.split()], env=environment, stdout=subprocess.PIPE, text=True
        )
        for run in runs
    ]
    return [number for process in processes for number in process.communicate()[0].split()]


def test_kernels_that_two_processes_compiled_serve_a_third_together(tmp_path: Path) -> None:
    """Each numbers its functions from the start, so only the constants tell two parts' names apart.

    The part is too long for the compiler to dissolve it in the kernel.
    """
    two, three = run_with_a_part(tmp_path, "2", "3")
    assert two != three
    assert run_with_a_part(tmp_path, "2 3") == [two, three]


def test_another_python_has_kernels_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {kernels_dir.__wrapped__()}
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-399")
    folders.add(kernels_dir.__wrapped__())
    assert len(folders) == 2


def doubled(folder: Path) -> numba.core.dispatcher.Dispatcher:
    @numba.njit
    def double(x):  # type: ignore[no-untyped-def]
        return x + x

    double._cache = KernelCache("double", folder)
    assert double(np.ones(1))[0] == 2
    return double


def num_hits(dispatcher: numba.core.dispatcher.Dispatcher) -> int:
    return sum(dispatcher.stats.cache_hits.values())


@pytest.mark.parametrize("keep", [0, 10, 1000], ids=lambda keep: f"{keep} bytes left")
def test_a_damaged_file_is_compiled_anew(tmp_path: Path, keep: int) -> None:
    doubled(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    assert num_hits(doubled(tmp_path)) == 0
    assert num_hits(doubled(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    doubled(tmp_path / "file" / "kernels")
