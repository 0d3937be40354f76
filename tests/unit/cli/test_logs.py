import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import WITHIN_S
from tests.unit.cli.conftest import Run

# with Ctrl-C as a terminal has it: a suite that runs in the background has it ignored
FOLLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "pdserve"
from cli.main import main
main()
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of the logs of the namespace `pdserve`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "pdserve" / "logs" / "pdserve"


def write(folder: Path, worker: str, name: str, text: str) -> Path:
    path = folder / worker / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_a_name_the_workers_are_listed_with_their_newest_file(
    run: Run, folder: Path
) -> None:
    write(folder, "prefill-0", "1", "old\n")
    newest = write(folder, "prefill-0", "2", "new\n")
    other = write(folder, "decode-0", "1", "x\n")
    ended = run("logs", "--plain")
    rows = [line.split("\t") for line in ended.out.splitlines() if ".log" in line]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("decode-0", "ended", str(other)),
        ("prefill-0", "ended", str(newest)),
    ]


def test_a_worker_s_newest_log_is_shown_from_its_end(run: Run, folder: Path) -> None:
    write(folder, "decode-0", "1", "old\n")
    write(folder, "decode-0", "2", "a\nb\nc\n")
    assert run("logs", "decode-0").out == "a\nb\nc\n"
    assert run("logs", "decode-0", "--lines", "1").out == "c\n"


def test_another_namespace_has_logs_of_its_own(run: Run, folder: Path) -> None:
    write(folder.parent / "blue", "decode-0", "1", "of blue\n")
    assert run("logs", "decode-0", "--namespace", "blue").out == "of blue\n"
    assert run("logs", "decode-0").code == 2


def test_an_unknown_worker_is_one_line_with_those_there_are(run: Run, folder: Path) -> None:
    write(folder, "decode-0", "1", "x\n")
    ended = run("logs", "decode-7")
    assert ended.code == 2
    assert ended.line.startswith("pdserve: no log of a worker 'decode-7' in ")
    assert "decode-0" in ended.line.partition("there are")[2]


def test_no_logs_at_all_is_one_line(run: Run, folder: Path) -> None:
    ended = run("logs")
    assert (ended.code, str(folder) in ended.line) == (2, True)


def test_following_needs_a_worker(run: Run, folder: Path) -> None:
    ended = run("logs", "--follow")
    assert (ended.code, "--follow" in ended.line) == (2, True)


@contextmanager
def following(worker: str, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """Run `pdserve logs WORKER --follow`; Ctrl-C must end it as it ends any command."""
    environment = os.environ | {"XDG_STATE_HOME": str(folder.parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW, "logs", worker, "--follow"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_S) == 130
    finally:
        process.kill()
        process.communicate()


def test_following_goes_on_with_new_lines_and_with_a_restart_s_file(folder: Path) -> None:
    path = write(folder, "decode-0", "1", "before\n")
    with following("decode-0", folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        with path.open("a") as file:
            file.write("during\n")
        assert process.stdout.readline() == "during\n"
        write(folder, "decode-0", "2", "after a restart\n")
        assert process.stdout.readline() == "after a restart\n"
