"""Reports of a router on its workers' blocks and a request's time line, over scripted workers."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.ledger import BlockHolder, BlockLedger, HolderState, Integrity
from common.messages import Role, SequenceOutput, WorkRequest
from common.rpc.worker_host import WorkerHost
from common.timings import DecodeStepTiming, WorkTimings
from pdserve.v1 import ledger_pb2
from router.edge.block_ledgers import BlockLedgers
from tests.integration.support.processes import run_cli
from tests.integration.support.router_stack import HOST, collect, routing, serving, text_of
from tests.integration.support.scripted_worker import (
    BLOCK_SIZE,
    BLOCKS,
    NO_HOLDERS,
    ScriptedWorker,
    echo,
)
from tests.patience import WITHIN_S, ever_longer
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def holding(worker: ScriptedWorker) -> None:
    """Make the worker hold three blocks for each of its live requests."""

    def ledger(request_id: str) -> BlockLedger:
        holders = tuple(
            BlockHolder(request.request_id, HolderState.DECODING, 3, 1, 40, 39, 0, 0.25)
            for request in worker.requests
            if request.request_id in worker.live
            and request_id in ("", request.request_id, request.group)
        )
        return BlockLedger(BLOCKS, BLOCKS - 3, 2, 0, BLOCK_SIZE, len(holders), holders)

    worker.ledger = ledger


def held(blocks: ledger_pb2.WorkerBlocks) -> dict[str, int]:
    return {holder.request_id: holder.num_blocks for holder in blocks.ledger.holders}


async def test_a_running_request_shows_its_blocks_and_no_other_s(model_dir: Path) -> None:
    decode, prefill = ScriptedWorker(), ScriptedWorker("prefill-0", Role.PREFILL)
    holding(decode)
    async with serving(model_dir, decode, prefill) as stack:
        others = [
            asyncio.create_task(collect(stack.client, "x", request_id=name, n=n))
            for name, n in (("mine", 2), ("mi", 1))
        ]
        await asyncio.to_thread(decode.wait_for_request, 3)
        (found,) = (await stack.client.explain("mine")).blocks
        assert (found.worker, found.problem, held(found)) == (
            "decode-0",
            "",
            {"mine#0": 3, "mine#1": 3},
        )
        holder = found.ledger.holders[0]
        assert holder.state == ledger_pb2.HOLDER_STATE_DECODING
        assert (holder.num_shared_blocks, holder.num_tokens, holder.num_computed_tokens) == (
            1,
            40,
            39,
        )
        assert holder.age_us == 250_000
        everything = (await stack.client.blocks()).workers
        assert [blocks.worker for blocks in everything] == ["prefill-0", "decode-0"]
        assert (held(everything[0]), sorted(held(everything[1]))) == (
            {},
            ["mi", "mine#0", "mine#1"],
        )
        ledger = everything[1].ledger
        assert (ledger.blocks_total, ledger.blocks_free, ledger.blocks_cached) == (16, 13, 2)
        for request in decode.requests:
            decode.say(request, "ok", ends=True)
        await asyncio.gather(*others)
        assert list((await stack.client.explain("mine")).blocks) == []


async def test_another_router_s_requests_keep_its_name(model_dir: Path) -> None:
    decode = ScriptedWorker()
    holding(decode)
    host = WorkerHost(decode, HOST)
    try:
        addresses = [host.start()]
        async with routing(model_dir, addresses) as one, routing(model_dir, addresses) as other:
            running = asyncio.create_task(collect(other.client, "x", request_id="far"))
            request = await asyncio.to_thread(decode.wait_for_request)
            (found,) = (await one.client.blocks()).workers
            assert held(found) == {request.request_id: 3}
            assert request.request_id.endswith("/far")
            assert held((await other.client.blocks()).workers[0]) == {"far": 3}
            decode.say(request, "ok", ends=True)
            await running
    finally:
        await asyncio.to_thread(host.stop, WITHIN_S)


async def test_who_does_not_answer_in_time_is_named_and_holds_nobody_up(model_dir: Path) -> None:
    mute, quick = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    mute.ledger = None
    async with serving(model_dir, mute, quick) as stack:
        router = stack.router
        for within_s in ever_longer(0.05):
            async with asyncio.timeout(2 * WITHIN_S):
                answers = await BlockLedgers(router._pool, router._work_ids, within_s).read_all()
            if not answers[1].problem:
                break
        assert [(a.worker, a.problem) for a in answers] == [
            ("decode-0", f"no answer in {within_s} s"),
            ("decode-1", ""),
        ]
        assert not router._pool.link("decode-0")._questions._open
        mute.ledger = lambda _: BlockLedger(1, 1, 0, 0, 1, 0, ())
        assert not (await stack.client.blocks()).workers[0].problem, "a late answer confuses nobody"


async def test_status_check_fails_where_an_invariant_does_not_hold(model_dir: Path) -> None:
    good, bad = ScriptedWorker("decode-0", script=echo), ScriptedWorker("decode-1")
    problem = "a block is on the free list twice"
    async with serving(model_dir, good, bad) as stack:
        asked = ("status", "--check", "--json", "--address", stack.address)
        done = await asyncio.to_thread(run_cli, *asked)
        assert (done.returncode, json.loads(done.stdout)["problems"]) == (0, [])
        bad.ledger = lambda _: replace(
            NO_HOLDERS, integrity=Integrity(is_checked=True, problem=problem)
        )
        done = await asyncio.to_thread(run_cli, *asked)
        assert (done.returncode, json.loads(done.stdout)["problems"]) == (
            1,
            [f"decode-1: {problem}"],
        )
        assert json.loads(done.stdout)["router"]["adds_up"] is True
        shown = await asyncio.to_thread(run_cli, "status", "--check", "--address", stack.address)
        assert (shown.returncode, f"decode-1: {problem}" in shown.stdout) == (1, True)
    assert all(question.is_check for question in good.questions + bad.questions)


async def test_a_worker_that_dies_while_it_is_asked_shows_at_once(model_dir: Path) -> None:
    mute = ScriptedWorker()
    mute.ledger = None
    async with serving(model_dir, mute) as stack:
        router = stack.router
        asking = asyncio.create_task(
            BlockLedgers(router._pool, router._work_ids, within_s=WITHIN_S).read_all()
        )
        link = router._pool.link("decode-0")
        while not link._questions._open:
            await asyncio.sleep(0)
        await stack.lose(0)
        async with asyncio.timeout(WITHIN_S):
            (answer,) = await asking
        assert answer.problem == "its connection was lost"
        (later,) = (await stack.client.blocks()).workers
        assert later.problem == "unreachable"


async def test_what_a_stop_text_ends_has_its_time_line_too(model_dir: Path) -> None:
    """The worker learns of the end by a cancel, so its report with token 2 is the last."""
    step = DecodeStepTiming(1.0, 0.125, 2, 2)
    early = WorkTimings(0.5, num_cached_tokens=7, decode_steps=(step,), num_decode_steps=1)

    def script(worker: ScriptedWorker, request: WorkRequest) -> None:
        worker.say(request, "a")
        worker.publish(SequenceOutput(request.request_id, 1, (ord("b"),), timings=early))
        worker.say(request, "c", 2)

    async with serving(model_dir, ScriptedWorker(script=script)) as stack:
        start_s = time.monotonic()
        parts = await collect(stack.client, "x", request_id="cut", stop=["c"])
        passed_us = 1e6 * (time.monotonic() - start_s)
    assert text_of(parts) == "ab"
    timings = parts[-1].finished.timings
    shift_us = timings.queue_us - 500_000
    assert 0 <= shift_us < passed_us
    assert list(timings.decode_steps.start_us) == [1_000_000 + shift_us]
    assert parts[-1].finished.usage.cached_tokens == 7


async def test_requests_stand_on_the_router_s_time_line(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        for name in ("first", "second"):
            await collect(stack.client, "ab", request_id=name)
        first, second = [await stack.client.explain(name) for name in ("first", "second")]
    (done,) = first.finished
    assert first.arrival_us > 0
    assert second.arrival_us >= first.arrival_us + done.timings.total_us
