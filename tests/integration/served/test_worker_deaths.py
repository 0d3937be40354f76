"""Report of a worker's death: one line with its reason, and no output of Ray's own."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from common.engine.weights.resolve import ModelSource
from common.telemetry.log_files import newest_of, tail
from pdserve.client import AsyncClient
from tests.integration.support.processes import START_TIMEOUT_S, Served, run_cli, spawn
from tests.integration.support.waiting import until_back, workers

pytestmark = pytest.mark.deployment

REASON_TIMEOUT_S = 150.0


def logs_in(state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log folder of workers, and have commands look there too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    return state / "pdserve" / "logs" / "pdserve"


def written_by(worker: str, logs: Path) -> str:
    log = newest_of(logs, worker)
    return "\n".join(tail(log.path, 1000).lines) if log else ""


def test_an_abort_at_the_start_is_one_line_and_code_1(
    model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = logs_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PDSERVE_FAILPOINTS", "abort_at_start=decode")
    process = spawn(model.name)
    try:
        out, err = process.communicate(timeout=START_TIMEOUT_S)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (1, "")
    *stages, last = [line for line in err.splitlines() if line.strip()]
    assert last.startswith("pdserve: worker decode-0 died (SIGABRT) while ")
    for part in ("LLVM ERROR: failpoint", "--dtype", "`pdserve logs decode-0`"):
        assert part in last
    assert all(" took " in line for line in stages), stages
    assert "LLVM ERROR: failpoint" in written_by("decode-0", logs)
    # the start did not wait for the other worker
    assert "worker_ready" not in written_by("prefill-0", logs)


def policies(pid: int) -> set[int]:
    """Return the policies of a process's threads."""
    return {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


async def test_a_death_later_is_logged_with_its_reason(
    served_by_default: Served, state_by_default: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = logs_in(state_by_default, monkeypatch)
    async with AsyncClient(served_by_default.grpc) as client:
        first = await workers(client)
    assert "worker_ready" in written_by("prefill-0", logs)
    os.kill(first["prefill-0"].pid, signal.SIGKILL)
    before, died = await_event(served_by_default, "worker_died")
    assert (died["worker"], died["log"]) == ("prefill-0", "`pdserve logs prefill-0`")
    assert died["reason"] == "worker prefill-0 died (SIGKILL)"
    assert "memory" in died["remedy"]
    for name in first:
        assert [line for line in before if line.startswith(f"{name}: loading weights took ")]
    # it is started again, once, under its name, and says nothing else here
    between, back = await_event(served_by_default, "worker_back")
    assert (back["worker"], [line for line in between if '"worker_died"' in line]) == (
        "prefill-0",
        [],
    )
    listed = run_cli("logs", "--plain").stdout
    async with AsyncClient(served_by_default.grpc) as client:
        again = await until_back(client, first["prefill-0"])
    assert policies(again.pid) == {os.SCHED_OTHER}  # it serves as it did, however gently it began
    states = dict(line.split()[:2] for line in listed.splitlines() if ".log" in line)
    assert states == {"decode-0": "runs", "prefill-0": "runs"}
    stdout = served_by_default.process.stdout
    assert stdout is not None
    # the rest of its output when it was ready, which may come in parts
    for begin in ("bfloat16: ", "KV memory of a decode worker: ", "live page: "):
        assert stdout.readline().startswith(begin)
    os.set_blocking(stdout.fileno(), False)
    with pytest.raises(BlockingIOError):  # no output
        raise AssertionError(f"more output: {os.read(stdout.fileno(), 4096)!r}")


def await_event(served: Served, event: str) -> tuple[list[str], dict[str, Any]]:
    """Return the launcher's stderr up to the line of an event, and that line."""
    watchdog = threading.Timer(REASON_TIMEOUT_S, served.process.kill)
    watchdog.start()
    before: list[str] = []
    try:
        assert served.process.stderr is not None
        for line in served.process.stderr:
            if f'"{event}"' in line:
                return before, json.loads(line)
            before.append(line)
    finally:
        watchdog.cancel()
    raise AssertionError(f"no {event} was logged: {before}")
