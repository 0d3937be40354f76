"""One-node Ray cluster of a test's own, which deployments join."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.patience import WITHIN_S

HOST = "127.0.0.1"
_STORE_BYTES = 200 * 2**20


@contextmanager
def ray_head(temp_dir: Path) -> Iterator[str]:
    """Yield the address of a Ray without tasks; all its processes end with it.

    The environment gets the token that clients of this Ray need.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_AUTH_MODE", "token")
        port = _free_port()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        options = {
            "--port": port,
            "--node-ip-address": HOST,
            "--num-cpus": 4,
            "--object-store-memory": _STORE_BYTES,
            "--include-dashboard": "false",
            "--temp-dir": temp_dir,
        }
        command += [f"{name}={value}" for name, value in options.items()]
        with (temp_dir / "head.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        # a cluster's worker takes a thread for each core that it may use; here two share the machine
        psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
        try:
            _await_started(process, temp_dir / "head.log")
            yield f"{HOST}:{port}"
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _await_started(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if "will now block" in log.read_text():  # all of Ray's processes run
            return
        time.sleep(0.1)
    raise AssertionError(f"Ray did not start: {log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Ray's processes one by one: its own answer to SIGTERM is to drain for 30 s."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(WITHIN_S)
    for left in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(family, timeout=WITHIN_S)
