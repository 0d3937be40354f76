"""One-node Ray cluster of a test's own, which deployments join."""

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
    """Yield the address of a Ray without tasks; in the end its processes must end.

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
        try:
            _await_listening(process, port)
            yield f"{HOST}:{port}"
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _await_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("Ray did not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(WITHIN_S)
    _, alive = psutil.wait_procs(family, timeout=5)
    for left in alive:
        left.kill()
