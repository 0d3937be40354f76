"""Ray cluster of a test's own, which deployments join: a head, and nodes on other loopback addresses."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.patience import WITHIN_S

HOST = "127.0.0.1"
_STORE_BYTES = 200 * 2**20
_START = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]


@contextmanager
def ray_head(temp_dir: Path, num_cpus: int = 4) -> Iterator[str]:
    """Yield the address of a Ray without tasks; all its processes end with it.

    The environment gets the token that clients of this Ray need.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_AUTH_MODE", "token")
        port = _free_port()
        options = {
            "--head": None,
            "--port": port,
            "--node-ip-address": HOST,
            "--num-cpus": num_cpus,
            "--object-store-memory": _STORE_BYTES,
            "--include-dashboard": "false",
            "--temp-dir": temp_dir,
        }
        with _started(options, temp_dir / "head.log"):
            yield f"{HOST}:{port}"


@contextmanager
def ray_node(
    temp_dir: Path, head: str, host: str, resources: str = "{}"
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the process of one more node, with two CPUs; `resources` is JSON. `end_ray` kills it."""
    options = {
        "--address": head,
        "--node-ip-address": host,
        "--num-cpus": 2,
        "--resources": resources,
        "--object-store-memory": _STORE_BYTES,
        "--dashboard-agent-listen-port": 0,
    }
    with _started(options, temp_dir / f"{host}.log") as process:
        yield process


@contextmanager
def _started(options: Mapping[str, object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ray start` until the block ends; it has begun when the block begins."""
    words = [name if value is None else f"{name}={value}" for name, value in options.items()]
    with log.open("w") as output:
        process = subprocess.Popen([*_START, *words], stdout=output, stderr=subprocess.STDOUT)
    # a cluster's worker takes a thread for each core that it may use; here all share the machine
    psutil.Process(process.pid).cpu_affinity([min(os.sched_getaffinity(0))])
    try:
        _await_started(process, log)
        yield process
    finally:
        if process.poll() is None:
            end_ray(process)


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


def end_ray(process: subprocess.Popen[bytes]) -> None:
    """Kill a node's processes one by one: Ray's own answer to SIGTERM is to drain for 30 s."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(WITHIN_S)
    for left in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(family, timeout=WITHIN_S)
