"""The template of a private Ray's processes: what a copy takes over, and what happens without one."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import deploy.ray_worker_setup
from common.config import ServeConfig
from deploy import template
from deploy.handover import ADDRESS
from deploy.template import running_template
from tests.patience import WITHIN_S

SETUP = deploy.ray_worker_setup.__file__
IMPORTED = "import sys; sys.modules['imported'] = sys"
NICE_THEN = """
import os, threading
os.environ["NICE_THEN"] = str(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
"""
TEMPLATE = (
    "import socket, sys; from deploy.template_process import main; number, all, rest = sys.argv[1:]; "
    "main(socket.socket(fileno=int(number)), lambda: exec(all), lambda: exec(rest), 1)"
)
PROGRAM = """
import json, os, resource, signal, sys
print(json.dumps({
    "arguments": sys.argv[1:],
    "variable": os.environ.get("OF_THIS_PROCESS"),
    "folder": os.getcwd(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "is_copy": "imported" in sys.modules,
    "nice_then": os.environ.get("NICE_THEN"),
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "leads_group": os.getpgid(0) == os.getpid(),
}))
print("told", file=sys.stderr)
"""


@contextmanager
def serving(
    address: Path, import_all: str = IMPORTED, import_rest: str = NICE_THEN
) -> "Iterator[subprocess.Popen[bytes]]":
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        number = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", TEMPLATE, str(number), import_all, import_rest],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[number],
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children() -> set[int]:
    """Return this thread's child processes, those that have ended too."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def run(folder: Path, address: Path) -> "subprocess.CompletedProcess[str]":
    """Run the program as Ray runs a worker's, and wait until all have closed its output."""
    program = folder / "default_worker.py"
    program.write_text(PROGRAM)
    # a shell sets the limit: Python's preexec_fn is not safe in a process with threads
    limited = ("sh", "-c", 'ulimit -S -n 200; exec "$@"', "sh")
    ran = subprocess.run(
        [*limited, sys.executable, SETUP, str(program), "--a=b c", "--language=PYTHON"],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        cwd=folder,
        env=os.environ | {ADDRESS: str(address), "OF_THIS_PROCESS": "x"},
        check=False,
    )
    assert ran.returncode == 0, ran
    return ran


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:  # shorter than pytest's, as a socket's has to be
        yield Path(path)


def test_a_copy_goes_on_as_the_process_that_was_handed_over(folder: Path) -> None:
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with serving(folder / "t"):
        for nice_then in (nice, max(nice, 5)):  # others serve when the second begins
            ran = run(folder, folder / "t")
            told = json.loads(ran.stdout)
            assert told == {
                "arguments": ["--a=b c"],
                "variable": "x",
                "folder": str(folder.resolve()),
                "files": 200,
                "blocked": [],
                "is_copy": True,
                "nice_then": str(nice_then),
                "nice": nice,
                "leads_group": True,
            }
            assert ran.stderr == "told\n"


@pytest.mark.parametrize(
    ("import_all", "import_rest"),
    [
        ("import os; os._exit(1)", ""),
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "",
        ),
        ("import deploy.template_process as p; p.become = lambda *_: 1 / 0", ""),
        (IMPORTED, "import os; os._exit(1)"),
    ],
    ids=["dies while it imports", "has threads", "cannot become it", "has a copy that dies"],
)
def test_a_process_goes_on_by_itself_where_the_template(
    folder: Path, import_all: str, import_rest: str
) -> None:
    with serving(folder / "t", import_all, import_rest):
        told = json.loads(run(folder, folder / "t").stdout)
    assert not told["is_copy"]
    assert told["arguments"] == ["--a=b c"]


def test_a_process_goes_on_by_itself_where_there_is_no_template(folder: Path) -> None:
    ran = run(folder, folder / "none")
    assert not json.loads(ran.stdout)["is_copy"]
    assert "no template" in ran.stderr


def test_a_template_ends_with_the_process_that_started_it(folder: Path) -> None:
    with serving(folder / "t") as process:
        assert json.loads(run(folder, folder / "t").stdout)["is_copy"]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(WITHIN_S) == 0
        assert not (folder / "t").exists()


def test_a_template_is_there_for_a_private_ray_on_cpus_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = folder / "program.py"
    program.write_text("import sys; sys.stdin.read()")
    monkeypatch.setattr(template, "_PROGRAM", program)
    with running_template(ServeConfig(engine={"device": "cpu"}), folder):
        address = Path(os.environ[ADDRESS])
        assert address.is_socket()
        assert address.parent.stat().st_mode & 0o077 == 0
    assert not address.parent.exists()
    for config in (ServeConfig(engine={"device": "cuda"}), ServeConfig(ray_address="a:1")):
        with running_template(config, folder):
            assert ADDRESS not in os.environ
    monkeypatch.setattr(template, "version", lambda _: "2.61.0")
    with running_template(ServeConfig(engine={"device": "cpu"}), folder):
        assert ADDRESS not in os.environ


def test_a_folder_with_too_long_a_path_costs_the_template_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = folder / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with running_template(ServeConfig(engine={"device": "cpu"}), folder):
        assert ADDRESS not in os.environ
    assert not list(long.iterdir())


def test_a_template_that_ended_has_told_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = folder / "program.py"
    program.write_text("import sys; sys.exit('no such module')")
    monkeypatch.setattr(template, "_PROGRAM", program)
    before = children()
    with running_template(ServeConfig(engine={"device": "cpu"}), folder):
        (pid,) = children() - before
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert "no such module" in capsys.readouterr().out
