"""End of a worker that does not react; Ray has no part in it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import WorkerSpec
from deploy.launched import Launched
from deploy.launcher import kill_hung
from deploy.placement import Share
from deploy.worker_process import Home
from tests.patience import WITHIN_S


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a stopped process of this title."""
    with subprocess.Popen([request.param, "600"], executable=shutil.which("sleep")) as found:
        found.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, found.pid, os.WSTOPPED | os.WNOWAIT)  # with its new title by then
        yield found
        found.kill()


def hung(pid: int, log_file: Path | None) -> Launched:
    spec = WorkerSpec(
        name="decode-0",
        role="decode",
        model_dir=Path("model"),
        model_name="tiny",
        namespace="pdserve",
        log_file=log_file,
    )
    return Launched(spec, None, Share(1, ()), Home("127.0.0.1", pid, "1.log"))


@pytest.mark.parametrize("process", ["ray::WorkerActor.start"], indirect=True)
def test_a_stopped_worker_of_this_machine_ends_at_once(process: subprocess.Popen[bytes]) -> None:
    kill_hung(hung(process.pid, Path("1.log")))
    assert process.wait(WITHIN_S) == -signal.SIGKILL
    kill_hung(hung(process.pid, Path("1.log")))  # it is gone


@pytest.mark.parametrize(
    ("process", "log_file"),
    [("other", Path("1.log")), ("ray::WorkerActor", None)],
    indirect=["process"],
)
def test_no_process_but_a_worker_of_this_machine_is_killed(
    process: subprocess.Popen[bytes], log_file: Path | None
) -> None:
    kill_hung(hung(process.pid, log_file))
    process.terminate()
    process.send_signal(signal.SIGCONT)
    assert process.wait(WITHIN_S) == -signal.SIGTERM
