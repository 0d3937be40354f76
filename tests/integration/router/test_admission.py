"""Admission and queueing in a real router, over a worker that answers only when told to."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from common.profile import WorkerProfile
from common.router_config import RouterConfig, TenantLimits
from pdserve.errors import InvalidRequestError, OverloadedError, Reason, RequestCancelledError
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.router_stack import Stack, collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

# steps of 10 prompt tokens, so that at most 40 are under way; each token takes a tenth of a second
PROFILE = WorkerProfile(
    (1, 10), (0.1, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, max_batch_tokens=10, max_num_seqs=8
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def small_worker(**scripts: object) -> ScriptedWorker:
    worker = ScriptedWorker(**scripts)  # type: ignore[arg-type]
    worker.info = replace(worker.info, profile=PROFILE)
    return worker


def ask(stack: Stack, prompt: str, **kwargs: object) -> "asyncio.Task[object]":
    return asyncio.create_task(collect(stack.client, prompt, **kwargs))  # type: ignore[arg-type]


async def test_prompts_wait_in_the_router_and_go_when_others_have_their_first_token(
    model_dir: Path,
) -> None:
    worker = small_worker()
    async with serving(model_dir, worker) as stack:
        first = [ask(stack, "x" * 20, request_id=f"r{number}") for number in range(2)]
        await asyncio.to_thread(worker.wait_for_request, 2)
        late = ask(stack, "late")
        await stack.until(lambda status: status.router.requests_in_flight == 3)
        assert len(worker.requests) == 2
        await asyncio.to_thread(worker.say, worker.requests[0], "a")
        third = await asyncio.to_thread(worker.wait_for_request, 3)
        assert third.prompt_token_ids == tuple(b"late")
        for task in (*first, late):
            task.cancel()
        await asyncio.gather(*first, late, return_exceptions=True)
        await stack.until_idle()


async def test_a_long_prompt_on_its_way_holds_up_its_own_worker_alone(model_dir: Path) -> None:
    workers = [small_worker(name=f"decode-{number}") for number in range(2)]
    async with serving(model_dir, *workers) as stack:
        tasks = [ask(stack, "x" * 200)]
        await stack.until(lambda _: any(worker.requests for worker in workers))
        idle = next(worker for worker in workers if not worker.requests)
        tasks += [ask(stack, "y" * 20) for _ in range(2)]
        await asyncio.to_thread(idle.wait_for_request, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await stack.until_idle()


async def test_a_prompt_is_cancelled_while_it_waits_for_its_turn(model_dir: Path) -> None:
    worker = small_worker()
    async with serving(model_dir, worker) as stack:
        first = ask(stack, "x" * 40)
        await asyncio.to_thread(worker.wait_for_request)
        waiting = ask(stack, "waits", request_id="waits")
        await stack.until(lambda status: status.router.requests_in_flight == 2)
        await stack.client.cancel("waits")
        with pytest.raises(RequestCancelledError):
            await waiting
        assert len(worker.requests) == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await stack.until_idle()).cancelled == 2


async def test_a_first_token_that_would_come_too_late_is_refused_at_once(model_dir: Path) -> None:
    """The prompt alone takes 2,000 s by the worker's profile."""
    worker = small_worker(script=echo)
    worker.info = replace(worker.info, profile=replace(PROFILE, row_seconds=(100.0, 1000.0)))
    async with serving(model_dir, worker) as stack:
        sampling = inference_pb2.SamplingParams(max_tokens=4)
        with pytest.raises(OverloadedError, match="token 1 is expected in 2") as caught:
            await stack.client.generate("x" * 20, sampling, timeout=WITHIN_S)
        assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
        assert caught.value.retry_after_s > 1000
        assert not worker.requests
        answer = await stack.client.generate("x" * 20, sampling, request_id="r", timeout=2500.0)
        assert answer.text == "xxxx"
        with pytest.raises(OverloadedError, match="token 1 is expected in 2"):
            await stack.client.generate("x" * 20, sampling, request_id="r", timeout=WITHIN_S)
        assert (await stack.client.explain("r")).finished, (
            "it is still the answer that is explained"
        )
        totals = await stack.until_idle()
        assert (totals.accepted, totals.rejected) == (1, 2)


async def test_who_has_waited_is_not_served_in_vain(model_dir: Path) -> None:
    """The worker meanwhile gets a thousand seconds of work from another router."""
    worker = small_worker()
    async with serving(model_dir, worker) as stack:
        first = ask(stack, "x" * 40)
        request = await asyncio.to_thread(worker.wait_for_request)
        waiting = asyncio.create_task(stack.client.generate("late", timeout=WITHIN_S))
        await stack.until(lambda status: status.router.requests_in_flight == 2)
        worker.reported = replace(worker.reported, backlog_tokens=10_000)
        worker.publish()
        await stack.until(lambda status: status.workers[0].load.backlog_tokens == 10_000)
        await asyncio.to_thread(worker.say, request, "a")
        with pytest.raises(OverloadedError, match=r"token 1 is expected in 1\d\d\d\.") as caught:
            await waiting
        assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
        assert caught.value.retry_after_s > 600
        assert len(worker.requests) == 1
        await asyncio.to_thread(lambda: worker.say(request, "b", 1, ends=True))
        await first
        totals = await stack.until_idle()
        assert (totals.accepted, totals.failed, totals.rejected) == (2, 1, 0)


async def test_a_full_queue_refuses_before_it_tokenizes(model_dir: Path) -> None:
    """The text could never be served."""
    worker, config = small_worker(), RouterConfig(max_queued_requests=1)
    async with serving(model_dir, worker, config=config) as stack:
        first = ask(stack, "x")
        request = await asyncio.to_thread(worker.wait_for_request)
        with pytest.raises(OverloadedError, match="1 requests are queued"):
            await collect(stack.client, "y" * 100_000)
        await asyncio.to_thread(lambda: worker.say(request, "z", ends=True))
        await first
        with pytest.raises(InvalidRequestError, match="exceed the context"):
            await collect(stack.client, "y" * 100_000)
        assert (await stack.until_idle()).rejected == 2


async def test_a_tenants_limit_is_refused_with_the_time_to_come_back(model_dir: Path) -> None:
    config = RouterConfig(tenant=TenantLimits(max_requests=1, tokens_per_minute=60))
    worker = small_worker()
    async with serving(model_dir, worker, config=config) as stack:
        start_s = time.monotonic()
        first = ask(stack, "x" * 40)
        request = await asyncio.to_thread(worker.wait_for_request)
        with pytest.raises(OverloadedError, match="1 requests in flight") as caught:
            await collect(stack.client, "y")
        assert caught.value.reason is Reason.TENANT_LIMIT
        await asyncio.to_thread(lambda: worker.say(request, "z" * 10, ends=True))
        await first
        with pytest.raises(OverloadedError, match="its 60 tokens a minute") as caught:
            await collect(stack.client, "y" * 60)
        # 50 are missing and come back one a second; this request is the first or second in line
        passed_s = time.monotonic() - start_s
        assert 50 - passed_s < caught.value.retry_after_s <= 50 + 3


async def test_a_client_that_does_not_read_loses_its_request_and_nobody_else_notices(
    model_dir: Path,
) -> None:
    config = RouterConfig(max_unread_tokens=100, slow_client_s=1.0)
    worker = small_worker()
    async with serving(model_dir, worker, config=config) as stack:
        async with grpc.aio.insecure_channel(stack.address) as channel:
            request = inference_pb2.GenerateRequest(text="slow", request_id="slow")
            call = inference_pb2_grpc.InferenceStub(channel).Generate(request)
            work = await asyncio.to_thread(worker.wait_for_request)
            await asyncio.to_thread(_flood, worker, work.request_id)
            # cut off by the limit of kept tokens, or because the write took too long
            await asyncio.to_thread(worker.wait, lambda w: work.request_id in w.cancelled)
            await stack.until(lambda status: not status.router.requests_in_flight)
            other = asyncio.create_task(collect(stack.client, "hello"))
            again = await asyncio.to_thread(worker.wait_for_request, 2)
            await asyncio.to_thread(lambda: worker.say(again, "world", ends=True))
            assert text_of(await other) == "world"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def _flood(worker: ScriptedWorker, request_id: str) -> None:
    """Send far more than gRPC buffers for a client: 2,000 steps of 8 KiB of text."""
    from common.messages import SequenceOutput

    text = tuple(b"x" * 8192)
    for step in range(2000):
        if request_id in worker.cancelled:
            return
        worker.publish(SequenceOutput(request_id, step * len(text), text))
