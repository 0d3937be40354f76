"""Tests of the end of a choice: it names the workers that really had it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.messages import FinishReason, SequenceOutput, TokenLogprobs
from common.timings import PrefillChunkTiming, TransferTiming, WorkTimings
from tests.unit.router.journey.world import FIRST, World

HERE = PrefillChunkTiming(0.1, 0.1, 100)
THERE = PrefillChunkTiming(0.1, 0.1, 100, is_remote=True)
SENT = TransferTiming(0.1, 0.1, 0.1, 0.1, 0.1, 64, 4096)
CASES = {
    "all of it came": (WorkTimings(prefill_chunks=(THERE,), transfers=(SENT,)), "p"),
    "token 1 alone was needed": (WorkTimings(prefill_chunks=(THERE,)), "p"),
    "a part came, decode ran the rest": (
        WorkTimings(pull_s=0.1, prefill_chunks=(HERE,), transfers=(SENT,)),
        "p",
    ),
    "token 1 came, but no KV": (WorkTimings(pull_s=0.1, prefill_chunks=(THERE, HERE)), "p"),
    "nothing came": (WorkTimings(pull_s=0.1, prefill_chunks=(HERE,)), None),
    "decode had the KV": (WorkTimings(prefill_chunks=(HERE,)), None),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.routed.check_nothing_is_held()


@pytest.mark.parametrize("case", CASES)
async def test_a_prefill_worker_is_named_if_anything_came_of_it(world: World, case: str) -> None:
    timings, prefill = CASES[case]
    task = await world.start_sent()
    end = SequenceOutput(FIRST, 0, (7,), FinishReason.LENGTH, timings=timings)
    world.routed.decode._hand_out(end)
    summary = (await task)[-1].summary
    assert summary is not None
    assert (summary.route.prefill, summary.route.decode) == (prefill, "d")
    assert summary.timings.num_cached_tokens == timings.num_cached_tokens


async def test_a_token_that_comes_again_is_dropped_with_its_log_probability(world: World) -> None:
    task = await world.start_sent()
    scores = tuple(TokenLogprobs(-float(number)) for number in range(3))
    decode = world.routed.decode
    decode._hand_out(SequenceOutput(FIRST, 0, (7, 8), logprobs=scores[:2]))
    decode._hand_out(SequenceOutput(FIRST, 1, (8, 9), FinishReason.LENGTH, logprobs=scores[1:]))
    deltas = await task
    assert [delta.token_ids for delta in deltas] == [(7, 8), (9,)]
    assert [delta.logprobs for delta in deltas] == [scores[:2], scores[2:]]
