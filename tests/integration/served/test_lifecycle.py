"""Start and stop: an interrupted start leaves nothing behind, and the HTTP port tells the truth.

Each `serving` proves that a signal stops a whole deployment: SIGINT in one of
test_model_sources.py, SIGTERM in all others.
"""

import asyncio
import json
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.errors import Reason, UnavailableError
from pdserve.v1.inference_pb2 import SamplingParams
from tests.integration.support.processes import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Served,
    run_cli,
    spawn,
)
from tests.patience import WITHIN_S

pytestmark = pytest.mark.deployment

KILLED_WITHIN_S = 30.0  # Ray's agents alone would stay for a minute


def _get(served: Served, path: str) -> str:
    with urllib.request.urlopen(f"http://{served.http}{path}", timeout=WITHIN_S) as response:
        body: bytes = response.read()
    return body.decode()


def test_http_port_serves_health_readiness_and_metrics(served: Served) -> None:
    assert _get(served, "/healthz") == "ok\n"
    assert _get(served, "/readyz") == "ready\n"
    metrics = _get(served, "/metrics")
    for name in ("time_to_first_token", "inter_token_latency", "request_queue_time", "handoff"):
        assert f"pdserve_{name}_seconds_bucket" in metrics
    assert 'pdserve_worker_kv_blocks{role="decode",state="free",worker="decode-0"}' in metrics


@pytest.mark.parametrize("stage", ["raylet", "starting its process took"])
def test_a_signal_during_start_up_stops_everything(model: ModelSource, stage: str) -> None:
    """The second stage is the one in which workers load."""
    process = spawn(model.name)
    root = psutil.Process(process.pid)
    try:
        family = _await_raylet(root)
        if stage != "raylet":
            _await_line(process, stage)
            family = [root, *root.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=STOP_TIMEOUT_S)
        assert (process.returncode, "SIGTERM" in errors, "Traceback" in errors) == (0, False, False)
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        assert not alive, f"left behind: {alive}"
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.ends_shared
async def test_a_second_signal_ends_the_grace_and_streams_are_told(served: Served) -> None:
    endless = SamplingParams(max_tokens=1800, ignore_eos=True)
    process, family = served.process, served.family()
    async with AsyncClient(served.grpc, retries=False) as client:
        stream = client.stream("Once upon a time", endless)
        assert (await anext(stream)).index == 0
        process.send_signal(signal.SIGTERM)
        assert (await _refusal(client)).reason is Reason.SHUTTING_DOWN
        await anext(stream)  # goes on within the grace
        process.send_signal(signal.SIGTERM)
        with pytest.raises(UnavailableError) as caught:
            async for _ in stream:
                pass
        assert caught.value.reason is Reason.SHUTTING_DOWN
    assert await asyncio.to_thread(process.wait, STOP_TIMEOUT_S) == 0
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    assert not alive, f"left behind: {alive}"


async def _refusal(client: AsyncClient) -> UnavailableError:
    """Ask until a signal that is on its way has come, and the router refuses."""
    while True:
        try:
            await client.generate("late", SamplingParams(max_tokens=1))
        except UnavailableError as error:
            return error


def test_each_worker_has_a_gpu_of_its_own(
    served_by_default: Served, state_by_default: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(state_by_default))
    given = []
    for worker in ("prefill-0", "decode-0"):
        lines = run_cli("logs", worker).stdout.splitlines()
        [ready] = [json.loads(line) for line in lines if '"worker_ready"' in line]
        given.append(ready["gpus"])
    assert sorted(given) == [["0"], ["1"]]


@pytest.mark.ends_shared
def test_a_kill_leaves_nothing_behind(served_by_default: Served) -> None:
    family = served_by_default.family()
    served_by_default.process.kill()
    _, alive = psutil.wait_procs(family, timeout=KILLED_WITHIN_S)
    assert not alive, f"left behind: {alive}"


def _await_line(process: subprocess.Popen[str], text: str) -> None:
    """Return when the process has printed this on stderr."""
    assert process.stderr is not None
    with _killed_after(process, START_TIMEOUT_S):
        assert any(text in line for line in process.stderr), f"'{text}' was not printed"


@contextmanager
def _killed_after(process: subprocess.Popen[str], within_s: float) -> Iterator[None]:
    watchdog = threading.Timer(within_s, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _await_raylet(root: psutil.Process) -> list[psutil.Process]:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        family = [root, *root.children(recursive=True)]
        if any("raylet" in process.name() for process in family):
            return family
        psutil.wait_procs([root], timeout=0.05)
    raise AssertionError("Ray did not start")
