"""Cluster of several nodes, separate raylets on one machine: it is scaled onto a node, and loses one."""

import asyncio
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.chaos.fleet import Fleet
from pdserve.client import AsyncClient
from tests.faults.deployments import SETTINGS
from tests.faults.texts import QUESTIONS, Answers, ask_all, check_answers, check_nothing_is_left
from tests.integration.support.processes import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    await_ready,
    ended,
    run_cli,
    spawn,
)
from tests.integration.support.ray_head import end_ray, ray_head, ray_node

PREFILL, DECODE = '{"prefill": 1}', '{"decode": 1}'
FLAGS = ("--namespace", "nodes", "--dtype", "float32", "--policy", "least_loaded")


class Nodes:
    """A head without room for workers, and the nodes that a test adds by their addresses."""

    def __init__(self, folder: Path, head: str, stack: ExitStack) -> None:
        self.head = head
        self._folder = folder
        self._stack = stack

    def add(self, host: str, resources: str) -> "subprocess.Popen[bytes]":
        """Start a node; return its process."""
        return self._stack.enter_context(ray_node(self._folder, self.head, host, resources))


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Yield a cluster that has only its head."""
    settings = SETTINGS | {"PDSERVE_FAILPOINTS": "slow_steps=*:0.02"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,  # sockets need a short path
        ray_head(Path(folder), num_cpus=0) as head,
        ExitStack() as stack,
    ):
        yield Nodes(Path(folder), head, stack)


@pytest.mark.faults
async def test_nodes_come_and_go(tiny_model: Path, nodes: Nodes) -> None:
    place = (str(tiny_model), "--ray-address", nodes.head, *FLAGS)
    nodes.add("127.0.0.2", PREFILL)
    refused = run_cli("serve", *place)
    assert refused.returncode == 2
    assert "2 workers need 1 decode, the 2 nodes have 0. start nodes of that role" in refused.stderr

    lost = nodes.add("127.0.0.3", DECODE)
    process = spawn(*place, "--wait-for-nodes", str(START_TIMEOUT_S))
    with ended(process):
        served = await asyncio.to_thread(await_ready, process)
        stderr = process.stderr
        assert stderr is not None
        log: list[str] = []
        threading.Thread(target=lambda: log.extend(stderr), daemon=True).start()
        async with AsyncClient(served.grpc) as client:
            fleet = Fleet(client, served.grpc, process.pid)
            undisturbed = await ask_all(fleet, QUESTIONS, "undisturbed")
            expected = {asking.question: asking.answer() for asking in undisturbed}
            await scale_onto_a_new_node(fleet, nodes)
            check_answers(await ask_all(fleet, QUESTIONS, "scaled"), expected)

            answers = Answers(fleet, QUESTIONS, "losing")
            await answers.until_messages(20)
            before = {worker.name: worker.incarnation for worker in await fleet.workers()}
            end_ray(lost)
            check_answers(await answers.all(), expected)
            await asyncio.to_thread(nodes.add, "127.0.0.5", DECODE)
            await fleet.until_whole({"decode-0": before["decode-0"]}, START_TIMEOUT_S)
            assert await hosts(fleet) == {
                "prefill-0": "127.0.0.2",
                "decode-0": "127.0.0.5",
                "decode-1": "127.0.0.4",
            }
            check_answers(await ask_all(fleet, QUESTIONS, "after"), expected)
            await check_nothing_is_left(fleet)
        process.terminate()
        assert await asyncio.to_thread(process.wait, STOP_TIMEOUT_S) == 0


async def scale_onto_a_new_node(fleet: Fleet, nodes: Nodes) -> None:
    """Ask for a second decode worker; it is started when a node for it has come."""

    async def scale() -> None:
        async for _ in fleet.client.scale(decode=2, timeout=START_TIMEOUT_S):
            pass

    scaling = asyncio.create_task(scale())
    await asyncio.to_thread(nodes.add, "127.0.0.4", DECODE)
    await scaling
    assert await hosts(fleet) == {
        "prefill-0": "127.0.0.2",
        "decode-0": "127.0.0.3",
        "decode-1": "127.0.0.4",
    }


async def hosts(fleet: Fleet) -> dict[str, str]:
    """Return the address of each worker's node."""
    return {w.name: w.address.rpartition(":")[0] for w in await fleet.workers()}
