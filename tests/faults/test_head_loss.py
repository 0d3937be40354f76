"""Head of a cluster that dies for good: `pdserve serve` ends in order, before Ray would end it."""

import asyncio
import tempfile
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.fleet import Fleet
from pdserve.client import AsyncClient
from tests.faults.deployments import SETTINGS
from tests.faults.texts import QUESTIONS, Answers, ask_all
from tests.integration.support.processes import await_ready, ended, spawn
from tests.integration.support.ray_head import ray_head, ray_node
from tests.patience import WITHIN_S


def kill_gcs(address: str) -> None:
    """Kill the head's store of state; the head's other processes follow."""
    port = address.rpartition(":")[2]
    [gcs] = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "gcs_server"
        and f"--gcs_server_port={port}" in (process.info["cmdline"] or [])
    ]
    gcs.kill()


def ends_as_it_should(asking: Asking, whole: Asking) -> bool:
    """Return True if an answer is whole, or its beginning and a typed error."""
    if not asking.error:
        return asking.answer() == whole.answer()
    return asking.error.startswith("UnavailableError")


@pytest.mark.faults
async def test_serve_ends_with_the_reason(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SETTINGS | {"PDSERVE_FAILPOINTS": "slow_steps=*:0.02"}).items():
        monkeypatch.setenv(name, value)
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,  # sockets need a short path
        ray_head(Path(folder), num_cpus=0) as head,
        ray_node(Path(folder), head, "127.0.0.2"),
    ):
        process = spawn(str(tiny_model), "--ray-address", head, "--dtype", "float32")
        with ended(process):
            served = await asyncio.to_thread(await_ready, process)
            async with AsyncClient(served.grpc) as client:
                fleet = Fleet(client, served.grpc, process.pid)
                undisturbed = await ask_all(fleet, QUESTIONS, "undisturbed")
                answers = Answers(fleet, QUESTIONS, "losing")
                await answers.until_messages(20)
                kill_gcs(head)
                pairs = zip(await answers.all(), undisturbed, strict=True)
                assert all(ends_as_it_should(*pair) for pair in pairs)
            _, errors = await asyncio.to_thread(process.communicate, timeout=WITHIN_S)
            assert process.returncode == 1
            assert "pdserve: Ray's head at " in errors
            assert "did not answer 10 times, and with it this deployment" in errors
            assert "Traceback" not in errors
