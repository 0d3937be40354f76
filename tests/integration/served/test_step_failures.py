"""Requests that make the model's steps raise: the request ends, and no process does."""

import asyncio
import random

import pytest

from pdserve.client import AsyncClient
from pdserve.errors import InternalError, Reason
from pdserve.v1 import inference_pb2
from tests.integration.conftest import POISON
from tests.integration.support.processes import Served
from tests.integration.support.waiting import until_nothing_is_held

DRAW = random.Random(2)
PROMPTS = [[DRAW.randrange(100, 12_000) for _ in range(20 + 15 * i)] for i in range(4)]
GREEDY = inference_pb2.SamplingParams(max_tokens=12, ignore_eos=True)
# generates POISON at once, and the next step runs it on decode
SAYS_POISON = inference_pb2.SamplingParams(max_tokens=12, logit_bias={POISON: 100.0})


async def tokens_of(client: AsyncClient, prompt: list[int]) -> list[int]:
    parts = [part async for part in client.stream(prompt, GREEDY)]
    return [token_id for part in parts for token_id in part.token_ids]


async def ends_of(
    client: AsyncClient, prompt: list[int], sampling: inference_pb2.SamplingParams
) -> list[int]:
    """Return the tokens that come before STEP_FAILED."""
    said: list[int] = []

    async def listen() -> None:
        async for part in client.stream(prompt, sampling):
            said.extend(part.token_ids)

    with pytest.raises(InternalError) as caught:
        await listen()
    assert caught.value.reason is Reason.STEP_FAILED
    return said


async def _ask(grpc_address: str) -> None:
    async with AsyncClient(grpc_address, retries=False) as client:
        before = await client.status()
        alone = [await tokens_of(client, prompt) for prompt in PROMPTS]
        # new prompts, so no cache has them, and each is batched with others
        for poisoned, sampling, said in (
            ([5, POISON, 9], GREEDY, []),
            ([5, 9, 13], SAYS_POISON, [POISON]),
        ):
            ends = [ends_of(client, [number, *poisoned], sampling) for number in (50, 60)]
            texts = [tokens_of(client, prompt) for prompt in PROMPTS]
            *found, first, second = await asyncio.gather(*texts, *ends)
            assert found == alone
            assert first == second == said
        after = await until_nothing_is_held(client)
    processes = [[(w.name, w.pid, w.incarnation) for w in s.workers] for s in (before, after)]
    assert len(processes[0]) == 2
    assert processes[0] == processes[1]


def test_the_request_ends_and_no_process_does(served_float32: Served) -> None:
    asyncio.run(_ask(served_float32.grpc))
