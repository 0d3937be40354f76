"""Deployments on a Ray cluster: the supervisor and the workers outlive any router."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.errors import PreconditionError, UnavailableError
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.support.guarded_router import outcome
from tests.integration.support.processes import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Served,
    await_ready,
    ended,
    folder_with_foreign_packages,
    run_cli,
    spawn_command,
)
from tests.integration.support.ray_head import HOST, ray_head
from tests.integration.support.waiting import until_back, workers

pytestmark = pytest.mark.deployment

D = admin_pb2.WORKER_ROLE_DECODE
PROMPT = "It was a long day and everyone had something to say about it. " * 5
SAMPLING = inference_pb2.SamplingParams(max_tokens=16, ignore_eos=True)
SMALL = ("--config", str(Path("tests/integration/support/small.yaml").resolve()))
FAILPOINTS = "other_torch=decode-1:0.0"


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """Yield the address of this module's Ray; its sockets need a short path."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
    ):
        patch.setenv("PDSERVE_FAILPOINTS", FAILPOINTS)  # of the workers, which are Ray's children
        with ray_head(Path(folder)) as address:
            yield address


async def answer(client: AsyncClient) -> list[int]:
    return [token async for part in client.stream(PROMPT, SAMPLING) for token in part.token_ids]


def free_of(now: dict[str, admin_pb2.WorkerStatus]) -> bool:
    """Return True once none of these workers' processes is left."""
    left = [psutil.Process(worker.pid) for worker in now.values() if psutil.pid_exists(worker.pid)]
    return psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)[1] == []


@pytest.mark.faults
async def test_workers_outlive_the_process_that_started_them(
    model: ModelSource, ray_address: str, tmp_path: Path
) -> None:
    place = ("--ray-address", ray_address, "--namespace", "outliving", *SMALL)
    folder = folder_with_foreign_packages(tmp_path)
    first, router = spawn_command("serve", model.name, *place, cwd=folder), None
    with ended(first):
        served = await_ready(first)
        async with AsyncClient(served.grpc) as client:
            expected = await answer(client)
            before = await workers(client)
            await refuses_another_torch(client, before)
        async with grpc.aio.insecure_channel(before["decode-0"].address) as plain:
            code, _ = await outcome(plain, ("/pdserve.v1.Worker/Connect", True), ())
        assert code is grpc.StatusCode.UNAVAILABLE  # without TLS it would be UNAUTHENTICATED
        await joined_and_left(model, place, expected, served)
        router = spawn_command("router", *place)
        with ended(router):
            joined = await_ready(router)
            async with AsyncClient(joined.grpc) as client:
                assert await answer(client) == expected
                first.kill()
                first.wait(STOP_TIMEOUT_S)
                os.kill(before["decode-0"].pid, signal.SIGKILL)
                await until_back(client, before["decode-0"])
                assert await answer(client) == expected
                await taken_over(model, place, expected, before["prefill-0"].pid)
            async with AsyncClient(joined.grpc, retries=False) as client:
                with pytest.raises(UnavailableError):
                    await answer(client)
            router.terminate()
            assert router.wait(STOP_TIMEOUT_S) == 0


async def refuses_another_torch(
    client: AsyncClient, before: dict[str, admin_pb2.WorkerStatus]
) -> None:
    """Scale to a worker with another version of torch: it is refused, and others are untouched."""
    with pytest.raises(PreconditionError, match=r"decode-1 on \S+ has torch 0\.0, the deployment"):
        _ = [step async for step in client.scale(decode=2)]
    after = await workers(client)
    assert {n: w.incarnation for n, w in after.items()} == {
        n: w.incarnation for n, w in before.items()
    }


async def joined_and_left(
    model: ModelSource, place: tuple[str, ...], expected: list[int], served: Served
) -> None:
    """Serve a namespace that is served: the second joins, and its end ends nothing."""
    second = spawn_command("serve", model.name, *place)
    with ended(second):
        joined = await_ready(second)
        async with AsyncClient(served.grpc) as first, AsyncClient(joined.grpc) as client:
            before = await workers(first)
            assert await answer(client) == expected
            assert (await workers(client)).keys() == before.keys()
            second.terminate()
            assert second.wait(STOP_TIMEOUT_S) == 0
            assert second.stderr is not None
            assert "joined namespace 'outliving' beside 1 other" in second.stderr.read()
            assert await answer(first) == expected
            after = await workers(first)
            assert [w.pid for w in after.values()] == [w.pid for w in before.values()]


async def taken_over(
    model: ModelSource, place: tuple[str, ...], expected: list[int], prefill_pid: int
) -> None:
    """Serve a deployment whose owner was killed, and end it."""
    again = spawn_command("serve", model.name, *place)
    with ended(again):
        served = await_ready(again)
        async with AsyncClient(served.grpc) as client:
            assert await answer(client) == expected
            now = await workers(client)
        assert now["prefill-0"].pid == prefill_pid  # not started anew
        command = ("serve", model.name, *place, "--dtype", "float32")
        refused = await asyncio.to_thread(run_cli, *command, timeout_s=START_TIMEOUT_S)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "has workers with another model or engine settings" in refused.stderr
        again.terminate()
        assert again.wait(STOP_TIMEOUT_S) == 0
    assert free_of(now)


def test_what_no_node_has_is_refused_by_name_at_once(model: ModelSource, ray_address: str) -> None:
    place = ("--ray-address", ray_address, "--namespace", "lacking", *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PDSERVE_ENGINE__DEVICE", "cuda")
        refused = run_cli("serve", model.name, *place)
        waited = run_cli("serve", model.name, *place, "--wait-for-nodes", "1")
    lack = "pdserve: 2 workers need 2 GPU, the node has 0"
    assert (refused.returncode, waited.returncode) == (2, 2)
    assert refused.stderr.splitlines()[-1].startswith(f"{lack}. lower the number of workers")
    assert waited.stderr.splitlines()[-1].startswith(f"{lack}, and none came in 1 s")


@pytest.mark.parametrize("token", ["0" * 64, None])
def test_a_token_that_is_not_the_cluster_s_is_named(ray_address: str, token: str | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if token is None:
            patch.delenv("RAY_AUTH_MODE")
            patch.delenv("RAY_AUTH_TOKEN")
        else:
            patch.setenv("RAY_AUTH_TOKEN", token)
        done = run_cli("router", "--ray-address", ray_address)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"pdserve: Ray at '{ray_address}' wants its token: ")
    assert "RAY_AUTH_TOKEN" in line


def test_a_ray_that_nobody_serves_is_one_line_within_its_deadline(model: ModelSource) -> None:
    for command in (("serve", model.name), ("router",)):
        begun_s = time.monotonic()
        done = run_cli(*command, "--ray-address", f"{HOST}:9")
        assert (done.returncode, done.stdout) == (2, "")
        [line] = [line for line in done.stderr.splitlines() if "starting" not in line]
        assert line.startswith(f"pdserve: Ray at '{HOST}:9' does not answer: ")
        assert time.monotonic() - begun_s < STOP_TIMEOUT_S


def test_a_router_without_a_deployment_says_so(ray_address: str) -> None:
    done = run_cli("router", "--ray-address", ray_address, "--namespace", "nobody")
    assert done.returncode == 2
    assert done.stderr.startswith("pdserve: no deployment runs in namespace 'nobody'")
