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

# a process for each run: copies of one that has imported numba, and has compiled nothing
FORKS = """
import os, sys, traceback
import numba, numpy as np
from common.telemetry.logs import configure_logs

configure_logs("error", process="test")  # stdout is for results

def fork(run):
    readable, writable = os.pipe()
    if child := os.fork():
        os.close(writable)
        return child, readable
    try:
        os.write(writable, f"{run()}\\n".encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def ends(forks):
    for child, readable in forks:
        assert os.waitpid(child, 0)[1] == 0
        sys.stdout.write(os.read(readable, 1000).decode())
"""
AT_ONCE = f"""{FORKS}
from pathlib import Path
from common.engine.cpu.kernel_cache import KernelCache, tally

folder, kinds = Path(sys.argv[1]), [np.float32, np.float64, np.int32, np.int64, np.int16, np.uint8]
begun, begin = os.pipe()

def run(scale, order):
    @numba.njit
    def scaled(x):
        return x * scale

    scaled._cache = KernelCache(f"scaled/{{scale}}", folder)
    os.close(begin)
    os.read(begun, 1)  # ends when nobody can begin any more: all are there
    for kind in kinds if order == "up" else kinds[::-1]:
        assert scaled(np.array([3], kind))[0] == 3 * scale, kind
    return f"{{tally().compiled}} {{tally().loaded}}"

runs = [asked.split() for asked in sys.argv[2:]]
forks = [fork(lambda: run(float(scale), order)) for scale, order in runs]
os.close(begin)
ends(forks)
"""

HOLD = """
import fcntl, os, signal, sys
fcntl.flock(os.open(sys.argv[1], os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""
LONG = "\n            ".join(f"x[i] = np.sin(x[i] + constant) * {k} + constant" for k in range(60))
WITH_A_PART = f"""{FORKS}
from common.engine.cpu.jit import kernel, part

def make(constant):
    @part(variant=str(constant))
    def long(x):
        for i in range(x.shape[0]):
            {LONG}

    @kernel(variant=str(constant))
    def run(x):
        long(x)
    return run

def run_all(constants):
    x = np.zeros((len(constants), 3))
    for row, constant in zip(x, constants):
        make(constant)(row)
    return " ".join(str(row[0]) for row in x)

ends([fork(lambda: run_all([2])), fork(lambda: run_all([3]))])
ends([fork(lambda: run_all([2, 3]))])
"""


class Tally(NamedTuple):
    """Kernels that a process has compiled or loaded."""

    compiled: int
    loaded: int


def run_at_once(folder: Path, *runs: str) -> list[Tally]:
    """Have a process for each "SCALE ORDER" begin at one time; return each one's tally."""
    lines = printed_by(AT_ONCE, str(folder), *runs)
    return [Tally(*map(int, line.split())) for line in lines]


def printed_by(script: str, *arguments: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tally]]:
    """Return the folder in which four processes have compiled at once, and their tallies."""
    folder = tmp_path_factory.mktemp("kernels")
    return folder, run_at_once(folder, "2 up", "2 down", "3 up", "3 up")


def test_processes_that_compile_at_once_keep_each_others_kernels(
    at_once: tuple[Path, list[Tally]],
) -> None:
    folder, _ = at_once
    loaded = Tally(compiled=0, loaded=6)
    assert run_at_once(folder, "2 up", "3 up") == [loaded, loaded]
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


def test_kernels_that_two_processes_compiled_serve_a_third_together(tmp_path: Path) -> None:
    """Each numbers its functions from the start, so only the constants tell two parts' names apart.

    The part is too long for the compiler to dissolve it in the kernel.
    """
    two, three, both = printed_by(WITH_A_PART, XDG_CACHE_HOME=str(tmp_path))
    assert two != three
    assert both.split() == [two, three]


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
