"""Real processes that flip, die and are replaced under load.

Every answer must be the undisturbed one.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from pdserve.client import AsyncClient
from pdserve.errors import PreconditionError, Reason
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.support.processes import Served
from tests.integration.support.waiting import until_back, until_nothing_is_held
from tests.patience import WITHIN_S

P, D = admin_pb2.WORKER_ROLE_PREFILL, admin_pb2.WORKER_ROLE_DECODE
FLIPPED, DRAINING = admin_pb2.SCALE_ACTION_FLIPPED, admin_pb2.SCALE_ACTION_DRAINING
_FILLER = "It was a long day and everyone had something to say about it. "
_PROMPTS = [f"{_FILLER * n}Tell me about number {n}." for n in (0, 3, 20, 1, 9)]
_SAMPLING = inference_pb2.SamplingParams(max_tokens=24, ignore_eos=True)
_NUM_STREAMS = 4


async def _answer(client: AsyncClient, prompt: str) -> list[int]:
    parts = [part async for part in client.stream(prompt, _SAMPLING)]
    return [token_id for part in parts for token_id in part.token_ids]


async def _scale(client: AsyncClient, prefill: int, decode: int) -> list[tuple[int, str]]:
    steps = client.scale(prefill, decode, drain_timeout_s=WITHIN_S)
    return [(step.action, step.worker) async for step in steps]


async def _roles(client: AsyncClient) -> dict[str, int]:
    return {worker.name: worker.role for worker in (await client.status()).workers}


@asynccontextmanager
async def _under_load(client: AsyncClient, expected: list[list[int]]) -> AsyncIterator[list[int]]:
    """Run streams that send the prompts in turns; yield the list of answered prompts."""
    is_over = asyncio.Event()
    answered: list[int] = []

    async def stream(number: int) -> None:
        while not is_over.is_set():
            index = number % len(_PROMPTS)
            assert await _answer(client, _PROMPTS[index]) == expected[index]
            answered.append(index)
            number += 1

    async with asyncio.TaskGroup() as streams:
        for number in range(_NUM_STREAMS):
            streams.create_task(stream(number))
        try:
            yield answered
        finally:
            is_over.set()


async def _more(answered: list[int], num: int) -> None:
    """Return when `num` more answers have arrived."""
    wanted = len(answered) + num
    async with asyncio.timeout(WITHIN_S):
        while len(answered) < wanted:
            await asyncio.sleep(0.01)


async def test_role_flips_under_load_lose_nothing(served_float32: Served) -> None:
    async with AsyncClient(served_float32.grpc) as client:
        expected = [await _answer(client, prompt) for prompt in _PROMPTS]
        before = (await until_nothing_is_held(client)).router.totals
        async with _under_load(client, expected) as answered:
            await _more(answered, 2)
            assert await _scale(client, 0, 2) == [(DRAINING, "prefill-0"), (FLIPPED, "prefill-0")]
            assert await _roles(client) == {"prefill-0": D, "decode-0": D}
            await _more(answered, _NUM_STREAMS)
            actions = [action for action, _ in await _scale(client, 1, 1)]
            assert actions == [DRAINING, FLIPPED]
            await _more(answered, _NUM_STREAMS)
            assert sorted((await _roles(client)).values()) == [P, D]
        status = await until_nothing_is_held(client)
        totals = status.router.totals
        assert totals.failed == before.failed
        assert totals.completed - before.completed == len(answered) > 2 * _NUM_STREAMS
    # each process is still the same, with its model and memory
    assert len({worker.pid for worker in status.workers}) == 2


async def _struck_and_back(client: AsyncClient, role: int, number: signal.Signals) -> int:
    """Send a signal to the worker of a role; return its pid when another process has its name."""
    before = next(w for w in (await client.status()).workers if w.role == role)
    os.kill(before.pid, number)
    after = await until_back(client, before)
    [name] = [w.name for w in (await client.status()).workers if w.role == role]
    assert (name, after.pid == before.pid) == (before.name, False)
    return before.pid


@pytest.mark.faults
async def test_a_dead_prefill_worker_comes_back_and_the_new_one_is_found(
    served_float32: Served,
) -> None:
    async with AsyncClient(served_float32.grpc) as client:
        expected = [await _answer(client, prompt) for prompt in _PROMPTS]
        if len(os.sched_getaffinity(0)) % 2 == 0:  # else a core is left over, or shared by both
            with pytest.raises(PreconditionError, match="pin: off") as caught:
                await _scale(client, 2, 1)
            assert caught.value.reason is Reason.SCALE_REFUSED
        failed = (await client.status()).router.totals.failed
        async with _under_load(client, expected) as answered:
            await _more(answered, 2)
            await _struck_and_back(client, P, signal.SIGKILL)
            await _more(answered, _NUM_STREAMS)
        assert [await _answer(client, prompt) for prompt in _PROMPTS] == expected
        status = await until_nothing_is_held(client)
        new = next(worker for worker in status.workers if worker.role == P)
        assert new.load.kv_bytes > 0
        assert status.router.totals.failed == failed


@pytest.mark.faults  # the test of a killed supervisor kills this worker too
async def test_the_only_decode_worker_comes_back_and_answers_as_before(
    served_float32: Served,
) -> None:
    async with AsyncClient(served_float32.grpc) as client:
        expected = [await _answer(client, prompt) for prompt in _PROMPTS]
        await _struck_and_back(client, D, signal.SIGKILL)
        assert [await _answer(client, prompt) for prompt in _PROMPTS] == expected
        status = await until_nothing_is_held(client)
        assert [w.load.kv_bytes > 0 for w in status.workers] == [True, True]


@pytest.mark.faults
async def test_a_decode_worker_that_hangs_is_killed_and_comes_back(served_float32: Served) -> None:
    async with AsyncClient(served_float32.grpc) as client:
        expected = await _answer(client, _PROMPTS[0])
        pid = await _struck_and_back(client, D, signal.SIGSTOP)
        assert await _answer(client, _PROMPTS[0]) == expected
        assert not psutil.pid_exists(pid)


def _supervisor(served: Served) -> psutil.Process | None:
    for process in served.family():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if "SupervisorActor" in " ".join(process.cmdline()):
                return process
    return None


async def test_a_supervisor_that_is_killed_comes_back_and_finds_its_workers(
    served_float32: Served,
) -> None:
    first = _supervisor(served_float32)
    assert first is not None
    async with AsyncClient(served_float32.grpc) as client:
        expected = [await _answer(client, prompt) for prompt in _PROMPTS]
        before = {worker.name: worker.pid for worker in (await client.status()).workers}
        first.kill()
        assert await _answer(client, _PROMPTS[0]) == expected[0]  # requests do not need it
        killed = await _struck_and_back(client, D, signal.SIGKILL)
        second = _supervisor(served_float32)
        assert second is not None
        assert second.pid != first.pid
        after = {worker.name: worker.pid for worker in (await client.status()).workers}
        assert {pid for pid in before.values() if pid != killed} <= set(after.values())
        assert after.keys() == before.keys()
        assert [await _answer(client, prompt) for prompt in _PROMPTS] == expected
        status = await until_nothing_is_held(client)
        assert [worker.load.kv_bytes > 0 for worker in status.workers] == [True, True]
