"""Output file of a process: all output, and the traceback of a signal."""

import subprocess
import sys
from pathlib import Path

from common.telemetry.log_files import LogFile, newest_of, tail
from deploy.post_mortem import diagnose
from tests.patience import WITHIN_S

START = """
import os, sys
from pathlib import Path
from deploy.worker_output import redirect_output
redirect_output(Path(sys.argv[1]))
"""


def start(path: Path, code: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", START + code, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_all_that_a_process_and_its_children_print_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spaces" / "decode-0" / "1.log"
    code = (
        "print('by python', flush=True); os.system('echo by a child >&2'); os.write(2, b'raw\\n')"
    )
    process = start(path, code)
    assert process.communicate(timeout=WITHIN_S) == ("", "")
    assert tail(path, 9).lines == ["by python", "by a child", "raw"]
    assert path.stat().st_mode & 0o77 == 0


def test_the_file_is_locked_while_the_process_lives(tmp_path: Path) -> None:
    path = tmp_path / "decode-0" / "1.log"
    process = start(path, "input()")
    try:
        while not (path.exists() and LogFile("decode-0", path).is_written):
            assert process.poll() is None
    finally:
        process.communicate("\n", timeout=WITHIN_S)
    found = newest_of(tmp_path, "decode-0")
    assert found is not None
    assert not found.is_written


def test_an_abort_can_be_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "decode-0" / "1.log"
    code = "print('LLVM ERROR: cannot select', file=sys.stderr, flush=True); os.abort()"
    start(path, code).communicate(timeout=WITHIN_S)
    lines = tail(path, 99).lines
    death = diagnose(lines)
    assert (death.cause, death.last_words) == ("SIGABRT", "LLVM ERROR: cannot select")
    assert any('File "<string>"' in line for line in lines)  # the place of the failure
