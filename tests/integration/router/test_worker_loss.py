"""Loss and return of workers: clients get a clear status, and live workers get the work."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.messages import Role, WorkRequest
from common.router_config import RouterConfig
from common.rpc.channel import SERVER_OPTIONS
from common.rpc.worker_service import WorkerService
from pdserve.errors import Reason, UnavailableError
from pdserve.v1 import admin_pb2, worker_pb2_grpc
from tests.integration.support.router_stack import (
    ALWAYS_PREFILL,
    HOST,
    NO_WAIT,
    Stack,
    collect,
    routing,
    serving,
    text_of,
)
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

READY = admin_pb2.WORKER_STATE_READY
STALLED = admin_pb2.WORKER_STATE_STALLED
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNREACHABLE = admin_pb2.WORKER_STATE_UNREACHABLE


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


async def arrival(worker: ScriptedWorker, number: int = 1) -> WorkRequest:
    return await asyncio.to_thread(worker.wait_for_request, number)


async def health_of(stack: Stack) -> int:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        status: int = (await stub.Check(health_pb2.HealthCheckRequest())).status
        return status


async def serve(worker: ScriptedWorker, port: int = 0) -> tuple[grpc.aio.Server, int]:
    """Serve a worker as a new process at a port; 0: a free one."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    worker_pb2_grpc.add_WorkerServicer_to_server(WorkerService(worker), server)
    port = server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    return server, port


async def until_states(stack: Stack, *states: int) -> None:
    """Wait until the workers, prefill first, are in these states."""
    await stack.until(lambda status: [w.state for w in status.workers] == list(states))


async def test_a_lost_worker_ends_its_requests_with_worker_lost_if_nobody_is_left(
    model_dir: Path,
) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker, config=NO_WAIT) as stack:
        waiting = asyncio.create_task(collect(stack.client, "x"))
        streaming = stack.client.stream("y")
        first = asyncio.ensure_future(anext(streaming))
        await arrival(worker, 2)
        worker.say(next(r for r in worker.requests if r.prompt_token_ids == (121,)), "so far")
        assert (await first).text == "so far"
        await stack.lose(0)
        for ending in (waiting, anext(streaming)):
            with pytest.raises(UnavailableError, match="decode worker is gone") as caught:
                await ending
            assert caught.value.reason is Reason.WORKER_LOST
        totals = await stack.until_idle()
        assert (totals.accepted, totals.failed, totals.cancelled) == (2, 2, 0)


async def test_requests_of_a_lost_worker_go_on_at_another(model_dir: Path) -> None:
    lost, kept = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    async with serving(model_dir, lost, kept) as stack:
        streams = [asyncio.create_task(collect(stack.client, text)) for text in ("x", "y")]
        spread = [await arrival(worker) for worker in (lost, kept)]
        lost.say(spread[0], "so f")
        await stack.until(lambda status: status.router.requests_queued == 1)
        await stack.lose(0)
        moved = await arrival(kept, 2)
        assert moved.prompt_token_ids == spread[0].prompt_token_ids
        assert (moved.prior_token_ids, moved.attempt) == (tuple(b"so f"), 2)
        kept.say(moved, "ar, so good", 4, ends=True)
        kept.say(spread[1], "undisturbed", ends=True)
        ends = [await stream for stream in streams]
        assert sorted(map(text_of, ends)) == ["so far, so good", "undisturbed"]
        assert {parts[-1].finished.decode_worker for parts in ends} == {"decode-1"}
        assert (await stack.until_idle()).completed == 2


async def test_a_request_waits_for_the_only_worker_to_come_back(model_dir: Path) -> None:
    worker = ScriptedWorker()
    server, port = await serve(worker)
    async with routing(model_dir, [f"{HOST}:{port}"]) as stack:
        running = asyncio.create_task(collect(stack.client, "x"))
        worker.say(await arrival(worker), "on")
        await stack.until(lambda status: status.router.requests_queued == 0)
        await server.stop(grace=None)
        await until_states(stack, UNREACHABLE)
        late = asyncio.create_task(collect(stack.client, "late"))
        await stack.until(lambda status: status.router.requests_in_flight == 2)
        assert await health_of(stack) == NOT_SERVING
        # a new process has forgotten what the old one had
        worker.info = replace(worker.info, incarnation="second")
        server, _ = await serve(worker, port)
        later = [await arrival(worker, number) for number in (2, 3)]
        moved = next(request for request in later if request.prior_token_ids)
        worker.say(moved, "ward", 2, ends=True)
        worker.say(next(r for r in later if r is not moved), "ok", ends=True)
        assert (text_of(await running), text_of(await late)) == ("onward", "ok")
        assert await health_of(stack) == SERVING
        await server.stop(grace=None)


async def test_without_a_decode_worker_requests_are_refused_at_once_if_they_may_not_wait(
    model_dir: Path,
) -> None:
    prefill = ScriptedWorker("prefill-0", Role.PREFILL)
    async with serving(model_dir, ScriptedWorker(), prefill, config=NO_WAIT) as stack:
        await stack.lose(0)
        await until_states(stack, READY, UNREACHABLE)
        with pytest.raises(UnavailableError, match="no decode worker") as caught:
            await collect(stack.client, "x")
        assert caught.value.reason is Reason.NO_WORKER
        assert (await stack.until_idle()).failed == 1


async def test_the_other_decode_worker_gets_the_work_of_a_lost_one(model_dir: Path) -> None:
    lost, kept = ScriptedWorker("decode-0", script=echo), ScriptedWorker("decode-1", script=echo)
    async with serving(model_dir, lost, kept) as stack:
        assert (await collect(stack.client, "x"))[-1].finished.decode_worker == "decode-0"
        await stack.lose(0)
        await until_states(stack, UNREACHABLE, READY)
        for _ in range(3):
            parts = await collect(stack.client, "x")
            assert parts[-1].finished.decode_worker == "decode-1"
    assert (len(lost.requests), len(kept.requests)) == (1, 3)


async def test_without_its_prefill_worker_decode_runs_prompts_itself(model_dir: Path) -> None:
    decode, source = ScriptedWorker(script=echo), ScriptedWorker("prefill-0", Role.PREFILL)
    async with serving(model_dir, decode, source, config=ALWAYS_PREFILL) as stack:
        assert (await collect(stack.client, "x"))[-1].finished.prefill_worker == "prefill-0"
        await stack.lose(1)
        await until_states(stack, UNREACHABLE, READY)
        assert (await collect(stack.client, "x"))[-1].finished.prefill_worker == ""
    assert [request.prefill_worker for request in decode.requests] == ["prefill-0", None]


async def test_requests_spread_over_workers_by_what_each_has(model_dir: Path) -> None:
    workers = [ScriptedWorker(f"decode-{number}") for number in range(3)]
    async with serving(model_dir, *workers) as stack:
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(collect(stack.client, "x", request_id=f"r{number}")))
            worker = workers[number % 3]
            await arrival(worker, number // 3 + 1)
        workers[1].say(workers[1].requests[0], "done", ends=True)
        await tasks[1]
        tasks.append(asyncio.create_task(collect(stack.client, "x")))
        await arrival(workers[1], 3)
        assert [len(worker.requests) for worker in workers] == [2, 3, 2]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_prompts_go_to_the_prefill_worker_with_fewer_tokens_to_run(model_dir: Path) -> None:
    decode = ScriptedWorker()
    sources = [ScriptedWorker(f"prefill-{number}", Role.PREFILL) for number in range(2)]
    async with serving(model_dir, decode, *sources, config=ALWAYS_PREFILL) as stack:
        tasks = []
        for number, prompt in enumerate(("x" * 30, "x" * 10, "x" * 10, "x" * 5)):
            tasks.append(asyncio.create_task(collect(stack.client, prompt)))
            await arrival(decode, number + 1)
        chosen = [request.prefill_worker for request in decode.requests]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert chosen == ["prefill-0", "prefill-1", "prefill-1", "prefill-1"]


async def test_a_stalled_worker_gets_no_work_until_it_moves_again(model_dir: Path) -> None:
    stuck, kept = ScriptedWorker("decode-0", script=echo), ScriptedWorker("decode-1", script=echo)
    config = RouterConfig(stalled_after_s=3.0)
    async with serving(model_dir, stuck, kept, config=config) as stack:
        stuck.reported = replace(stuck.reported, progress_age_s=3.5)
        stuck.publish()  # a step without outputs still brings a report
        await until_states(stack, STALLED, READY)
        assert (await collect(stack.client, "x"))[-1].finished.decode_worker == "decode-1"
        stuck.reported = replace(stuck.reported, progress_age_s=0.0)
        stuck.publish()
        await until_states(stack, READY, READY)
        assert (await collect(stack.client, "x"))[-1].finished.decode_worker == "decode-0"


async def test_a_worker_that_comes_back_is_used_again_and_nothing_piles_up(
    model_dir: Path,
) -> None:
    worker = ScriptedWorker(script=echo)
    num_tasks = []
    server, port = await serve(worker)
    async with routing(model_dir, [f"{HOST}:{port}"]) as stack:
        for _ in range(3):
            assert text_of(await collect(stack.client, "back")) == "back"
            num_tasks.append(_count_writers())
            await server.stop(grace=None)
            await until_states(stack, UNREACHABLE)
            server, _ = await serve(worker, port)
            await until_states(stack, READY)
        await server.stop(grace=None)
    assert num_tasks == [1, 1, 1]


def _count_writers() -> int:
    """Count gRPC's tasks that write a stream of requests: one for each connected worker."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    return sum("_consume_request_iterator" in name for name in names)
