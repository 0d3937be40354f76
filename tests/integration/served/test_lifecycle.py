"""Start and stop: an interrupted start leaves nothing behind, and the HTTP port tells the truth.

Each `serving` proves that a signal stops a whole deployment: SIGINT in one of test_equality.py,
SIGTERM in all others.
"""

import signal
import time
import urllib.request

import psutil
import pytest

from common.engine.weights.resolve import ModelSource
from tests.integration.support.processes import (
    STOP_TIMEOUT_S,
    Served,
    await_ready,
    ended,
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


def test_a_signal_during_start_up_stops_everything(model: ModelSource) -> None:
    process = spawn(model.name)
    root = psutil.Process(process.pid)
    try:
        family = _await_raylet(root)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOP_TIMEOUT_S)
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        assert not alive, f"left behind: {alive}"
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_kill_leaves_nothing_behind(model: ModelSource) -> None:
    process = spawn(model.name, "--config", "tests/integration/support/small.yaml")
    with ended(process):
        family = await_ready(process).family()
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=KILLED_WITHIN_S)
        assert not alive, f"left behind: {alive}"


def _await_raylet(root: psutil.Process) -> list[psutil.Process]:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        family = [root, *root.children(recursive=True)]
        if any("raylet" in process.name() for process in family):
            return family
        psutil.wait_procs([root], timeout=0.05)
    raise AssertionError("Ray did not start")
