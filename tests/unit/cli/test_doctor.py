import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cli.shadowing import OURS, foreign_packages
from common.config import ServeConfig
from tests.patience import WITHIN_S
from tests.unit.cli.conftest import Run

GIB = 2**30
SetMachine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SetMachine:
    """Sets what the doctor finds: a machine with enough of everything, or less of it."""

    def set_machine(*, cores: int = 4, memory: int = 16 * GIB, shm: int = 16 * GIB) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=shm))

    return set_machine


def test_a_healthy_machine_has_no_problem(run: Run, machine: SetMachine) -> None:
    machine()
    ended = run("doctor")
    assert ended.code == 0
    assert "✗" not in ended.out
    assert f"all {len(OURS)} are pdserve's own" in ended.out


def test_one_core_is_a_remark_and_no_problem(run: Run, machine: SetMachine) -> None:
    machine(cores=1)
    ended = run("doctor")
    assert ended.code == 0
    assert "✓ cores: 1\n    prefill and decode share a core" in ended.out


@pytest.mark.parametrize(
    ("lack", "finding", "remedy"),
    [
        ({"memory": GIB}, "✗ memory: 1.0 GiB available", "at least 4 GiB"),
        ({"shm": 64 * 2**20}, "✗ shared memory: 0.1 GiB free", "Ray falls back to disk"),
    ],
)
def test_too_little_is_a_problem_with_what_is_needed(
    run: Run, machine: SetMachine, lack: dict[str, int], finding: str, remedy: str
) -> None:
    machine(**lack)
    ended = run("doctor")
    assert ended.code == 1
    assert finding in ended.out
    assert remedy in ended.out


def test_a_port_in_use_is_seen_and_is_no_problem(
    run: Run, machine: SetMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setattr("cli.doctor.ServeConfig", lambda: ServeConfig(grpc_port=port))
        ended = run("doctor")
    assert f"✓ grpc_port {port}: in use" in ended.out
    assert ended.code == 0


def test_a_library_that_is_missing_is_named(
    run: Run, machine: SetMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setattr("cli.doctor._LIBRARIES", ("grpcio", "no-such-library"))
    ended = run("doctor")
    assert ended.code == 1
    assert "not installed: no-such-library" in ended.out


@pytest.mark.parametrize("name", ["common/__init__.py", "router.py"])
@pytest.mark.parametrize("command", ["doctor", "--help"])
def test_a_foreign_package_in_front_of_ours_is_one_line(
    tmp_path: Path, name: str, command: str
) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise RuntimeError('the foreign package was imported')")
    ended = subprocess.run(
        [str(Path(sys.executable).parent / "pdserve"), command],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    package = name.partition("/")[0].removesuffix(".py")
    assert f"{package} is imported from {foreign.resolve()}" in line
    assert "use a venv of its own" in line


def test_here_nothing_is_foreign() -> None:
    assert foreign_packages() == {}
