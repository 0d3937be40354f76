"""Both workers free a request's blocks, whatever its client does."""

import asyncio
import random

import pytest

from pdserve.client import AsyncClient
from pdserve.errors import (
    NotFoundError,
    OverloadedError,
    Reason,
    RequestCancelledError,
    RequestTimeoutError,
)
from pdserve.v1 import inference_pb2
from tests.integration.support.processes import Served
from tests.integration.support.waiting import until_nothing_is_held
from tests.patience import WITHIN_S, ever_longer

_LONG = inference_pb2.SamplingParams(max_tokens=400, ignore_eos=True)


async def _break_off(
    client: AsyncClient, prompt: list[int], after_s: float, *, is_decoding: bool
) -> None:
    """Start a request and leave it after `after_s`; with `is_decoding`, so long after token 1."""
    has_begun = asyncio.Event()

    async def consume() -> None:
        async for _ in client.stream(prompt, _LONG):
            has_begun.set()

    task = asyncio.create_task(consume())
    if is_decoding:
        await asyncio.wait_for(has_begun.wait(), WITHIN_S)
    await asyncio.wait({task}, timeout=after_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_200_random_cancels_leave_no_block_held(served: Served) -> None:
    draw = random.Random(11)
    limit = asyncio.Semaphore(12)
    async with AsyncClient(served.grpc) as client:
        before = (await until_nothing_is_held(client)).router.totals

        async def one(number: int) -> None:
            prompt = [draw.randrange(100, 40_000) for _ in range(draw.choice((3, 40, 300, 600)))]
            async with limit:
                after_s = draw.uniform(0.0, 0.5)
                await _break_off(client, prompt, after_s, is_decoding=number % 10 == 0)

        await asyncio.gather(*(one(number) for number in range(200)))
        totals = (await until_nothing_is_held(client)).router.totals
    assert totals.accepted == totals.completed + totals.cancelled + totals.failed
    assert totals.failed == before.failed
    assert 0 < totals.cancelled - before.cancelled <= 200


async def test_cancel_call_ends_the_stream_with_cancelled(served: Served) -> None:
    async with AsyncClient(served.grpc) as client:
        stream = client.stream([5, 6, 7], _LONG, request_id="to-cancel")
        await anext(stream)
        await client.cancel("to-cancel")
        with pytest.raises(RequestCancelledError):
            async for _ in stream:
                pass
        await until_nothing_is_held(client)
        with pytest.raises(NotFoundError):
            await client.cancel("to-cancel")


async def test_a_deadline_ends_the_request_everywhere(served: Served) -> None:
    """Use a deadline that leaves time for token 1 here: shorter ones are refused at once."""
    async with AsyncClient(served.grpc) as client:
        for timeout_s in ever_longer(0.5):
            with pytest.raises((OverloadedError, RequestTimeoutError)) as ended:
                async for _ in client.stream([5, 6, 7], _LONG, timeout=timeout_s):
                    pass
            if not isinstance(ended.value, OverloadedError):
                break
            assert ended.value.reason is Reason.DEADLINE_UNREACHABLE
        assert isinstance(ended.value, RequestTimeoutError)
        await until_nothing_is_held(client)


async def test_more_work_than_memory_completes_by_preemption(served: Served) -> None:
    """Run 6 sequences that grow to 620 tokens each: 3,700 positions in memory for 3,000."""
    sampling = inference_pb2.SamplingParams(max_tokens=120, ignore_eos=True)
    prompts = [[1000 + i] * 500 for i in range(6)]
    async with AsyncClient(served.grpc) as client:

        async def run(prompt: list[int]) -> list[int]:
            parts = [part async for part in client.stream(prompt, sampling)]
            return [token_id for part in parts for token_id in part.token_ids]

        together = await asyncio.gather(*(run(prompt) for prompt in prompts))
        assert [len(tokens) for tokens in together] == [120] * 6
        await until_nothing_is_held(client)
