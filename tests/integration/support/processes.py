"""Real `pdserve serve` processes for tests: started, found, stopped, checked for remains."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from cli.shadowing import OURS
from tests.patience import WITHIN_S

PDSERVE = Path(sys.executable).parent / "pdserve"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = WITHIN_S
READY = re.compile(r"pdserve ready: model=(\S+) grpc=(\S+) http=(\S+)(?: openai=(\S+))?")


@dataclass(frozen=True, slots=True)
class Served:
    """A running deployment."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    openai: str = ""

    def family(self) -> list[psutil.Process]:
        """Return the launcher and all its descendants: Ray's services and the workers."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


def spawn(*args: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start `pdserve serve ARGS` on free ports, with captured output."""
    return spawn_command("serve", *args, cwd=cwd)


def spawn_command(
    *args: str, program: Path = PDSERVE, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start `pdserve ARGS` (serve or router) on free ports, with captured output, in a folder."""
    command = [str(program), *args, "--grpc-port", "0", "--http-port", "0"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment.setdefault("PDSERVE_START_TIMEOUT_S", str(START_TIMEOUT_S))
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
    )


def folder_with_foreign_packages(folder: Path) -> Path:
    """Return the folder, with a package of each of our names that ends whatever imports it."""
    for name in OURS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('FOREIGN')")
    return folder


@contextmanager
def serving(
    *args: str, ended_by: signal.Signals = signal.SIGTERM, cwd: Path | None = None
) -> Iterator[Served]:
    """Yield a ready deployment; then the signal must end it cleanly, with all processes."""
    process = spawn(*args, cwd=cwd)
    with ended(process):
        served = await_ready(process)
        yield served
        if process.poll() is None:
            stop(served, ended_by)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the process in the end if it still runs, and close its pipes."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_TIMEOUT_S)
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def stop(served: Served, number: signal.Signals) -> None:
    """Send the signal; the exit must be clean, and all processes gone, also Ray's."""
    family = served.family()
    assert any("raylet" in process.name() for process in family)
    served.process.send_signal(number)
    code = served.process.wait(STOP_TIMEOUT_S)
    assert code == 0, f"exit code {code}: {served.process.stderr and served.process.stderr.read()}"
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    assert not alive, f"left behind: {alive}"


def await_ready(process: subprocess.Popen[str]) -> Served:
    """Return the addresses of a deployment, or a router, as soon as it is ready."""
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := READY.match(line):
                return Served(process, found[2], found[3], found[4] or "")
    finally:
        watchdog.cancel()
    raise AssertionError(f"not ready: {process.stderr and process.stderr.read()}")


def run_cli(*args: str, timeout_s: float = WITHIN_S) -> subprocess.CompletedProcess[str]:
    """Run any `pdserve` command to its end."""
    return run_program(PDSERVE, *args, timeout_s=timeout_s)


def run_program(
    program: Path, *args: str, timeout_s: float = WITHIN_S, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    command = [str(program), *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=cwd
    )
