import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cli.shadowing import HOME, OURS, foreign_packages
from common.config import ServeConfig
from tests.patience import WITHIN_S
from tests.unit.cli.conftest import Run
from tests.unit.common.cgroup_trees import v2

GIB = 2**30
SetMachine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SetMachine:
    """Return a setter of the machine that the doctor finds; its defaults are sufficient."""

    def set_machine(
        *,
        cores: int = 4,
        memory: int = 16 * GIB,
        shm: int = 16 * GIB,
        groups: dict[str, str] | None = None,
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        host = SimpleNamespace(total=64 * GIB, available=memory)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
        monkeypatch.setattr("cli.doctor.CGROUPS", v2(tmp_path, "/", groups or {}))
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


def test_a_container_that_binds_is_named(run: Run, machine: SetMachine, tmp_path: Path) -> None:
    used = {"memory.max": str(6 * GIB), "memory.current": str(GIB)}
    machine(cores=64, groups={"cpu.max": "250000 100000", **used})
    ended = run("doctor")
    assert ended.code == 0
    out = "".join(ended.out.split("\n"))  # long lines are wrapped
    assert f"cores: 2 of 64 (limited to 2.5 by {tmp_path}/cgroup/cpu.max)" in out
    assert f"5.0 GiB available of 6.0 (limited by {tmp_path}/cgroup/memory.max)" in out


def test_a_container_with_too_little_memory_is_a_problem(run: Run, machine: SetMachine) -> None:
    machine(groups={"memory.max": str(2 * GIB), "memory.current": "0"})
    ended = run("doctor")
    assert ended.code == 1
    assert "✗ memory: 2.0 GiB available" in ended.out


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


def test_the_range_of_pythons_is_that_of_the_package(run: Run, machine: SetMachine) -> None:
    machine()
    assert "(of 3.11 to 3.14)" in run("doctor").out
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    named = [text for text in project["classifiers"] if "Python :: 3." in text]
    assert named == [f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)]


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0)])
def test_another_python_is_a_problem(
    run: Run, machine: SetMachine, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    machine()
    monkeypatch.setattr("cli.doctor.PYTHON", version)
    ended = run("doctor")
    assert ended.code == 1
    assert f"✗ python: {'.'.join(map(str, version))}\n" in ended.out
    assert "Python 3.11 to 3.14 is needed" in ended.out


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
