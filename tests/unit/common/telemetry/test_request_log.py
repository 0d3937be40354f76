import json
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.telemetry.request_log import RequestLog
from tests.patience import WITHIN_S

# fills the pipe of stderr, then writes a line, then empties the pipe and writes another
FULL_PIPE = """
import os, sys
from common.telemetry.logs import configure_logs
from common.telemetry.request_log import RequestLog

reader, writer = os.pipe()
os.dup2(writer, 2)
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(writer, True)
configure_logs(process="p")
log = RequestLog()
log.write("request_ended", request_id="lost")
os.read(reader, 1 << 20)
log.write("request_ended", request_id="written")
print(os.read(reader, 4096).decode(), end="")
"""


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_lines_beyond_the_limit_of_a_second_are_counted_in_the_next_one() -> None:
    clock = Clock()
    log = RequestLog(2, clock)
    with capture_logs() as lines:
        for number in range(5):
            log.write("request_ended", number=number)
        clock.now_s += 0.9
        log.write("request_ended", number=5)
        clock.now_s += 0.2
        log.write("request_ended", number=6)
        log.write("request_ended", number=7)
    found = [(line["number"], line.get("num_lines_lost")) for line in lines]
    assert found == [(0, None), (1, None), (6, 4), (7, None)]


def test_a_log_without_a_limit_writes_every_line() -> None:
    log = RequestLog()
    with capture_logs() as lines:
        for number in range(1000):
            log.write("request_ended", number=number)
    assert [line["number"] for line in lines] == list(range(1000))


def test_a_pipe_that_nobody_reads_loses_lines_and_holds_up_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_PIPE],
        stdout=subprocess.PIPE,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["request_id"], line["num_lines_lost"]) == ("written", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_loses_lines_and_raises_nothing() -> None:
    code = (
        "from common.telemetry.logs import configure_logs\n"
        "from common.telemetry.request_log import RequestLog\n"
        "configure_logs(process='p')\n"
        "log = RequestLog()\n"
        "log.write('request_ended', n=1); log.write('request_ended', n=2)\n"
        "print(log._num_lost)\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=WITHIN_S,
            check=False,  # Python cannot empty its buffer for stderr in the end
        )
    assert done.stdout == "2\n"


def test_a_stderr_without_a_descriptor_takes_every_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(OSError, match="fileno"):
        sys.stderr.fileno()
    with capture_logs() as lines:
        RequestLog().write("request_ended", request_id="r")
    assert [line["event"] for line in lines] == ["request_ended"]
