"""Ahead-of-time compilation of a model's kernels: `pdserve model pull` does it once a machine."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from common import engine
from common.engine.weights.progress import Progress

_DEADLINE_S = 900.0  # takes ten seconds on two cores; far more on a slow or busy machine
_POLL_S = 0.1


def compile_kernels(model_dir: Path, progress: Progress) -> str | None:
    """Compile in two processes what the model needs on this CPU; instant if already done.

    Returns the reason, in one line, if it failed: then the first start compiles.
    """
    mark = _mark(model_dir)
    if mark.exists():
        return None
    progress.stage("compile kernels for this CPU", None)
    processes = [_start(model_dir, *flags) for flags in ((), ("--second",))]
    deadline = time.monotonic() + _DEADLINE_S
    try:
        while any(process.poll() is None for process in processes):
            if time.monotonic() > deadline:
                return f"no result within {_DEADLINE_S:g} s"
            progress.advance(1)
            time.sleep(_POLL_S)
        if failed := next((p for p in processes if p.returncode), None):
            return _last_line(failed)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    try:
        mark.touch()
    except OSError as error:
        return f"cannot write {mark.parent}: {error.strerror}"
    return None


def _start(model_dir: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", f"{engine.__name__}.prepare", str(model_dir), *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _mark(model_dir: Path) -> Path:
    """Return the marker file: its existence means that all kernels are compiled.

    Its name depends on this CPU and on these sources.
    """
    # numba takes 0.3 s to import
    from common.engine.cpu.kernel_cache import kernels_dir
    from common.engine.cpu.target import host_target

    digest = hashlib.sha256(repr(host_target()).encode())
    digest.update((model_dir / "config.json").read_bytes())
    return kernels_dir() / f"{digest.hexdigest()[:32]}.ready"


def _last_line(process: "subprocess.Popen[str]") -> str:
    said = process.stderr.read().strip().splitlines() if process.stderr else []
    last = said[-1] if said else "it said nothing"
    return f"exit {process.returncode}: {last}"
