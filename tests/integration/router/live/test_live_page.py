"""The live page's paths at the router's HTTP port: files, frames, and one request."""

import asyncio
from pathlib import Path
from typing import Any

from common.ledger import BlockHolder, BlockLedger, HeldBlocks, HolderState
from common.messages import Role
from tests.integration.support.live_page import (
    FILES,
    asked,
    frames_of,
    get,
    in_thread,
    is_watched,
    until_unwatched,
)
from tests.integration.support.router_stack import ALWAYS_PREFILL, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo


async def test_the_page_is_of_our_own_files_and_may_load_nothing_else(model_dir: Path) -> None:
    def read(path: str) -> tuple[int, str, bytes]:
        with asked(port, path) as response:
            return (
                response.status,
                response.getheader("Content-Security-Policy", ""),
                response.read(),
            )

    async with serving(model_dir, ScriptedWorker()) as stack:
        port = stack.router.http_port
        for path in FILES:
            status, policy, body = await asyncio.to_thread(read, path)
            assert (status, bool(body)) == (200, True)
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert (await in_thread(stack, "/live/state"))[0] == 200
        assert not is_watched(stack.router)


async def test_a_frame_has_each_request_at_its_stage(model_dir: Path) -> None:
    prefill = ScriptedWorker("prefill-0", Role.PREFILL)
    decode = ScriptedWorker()
    async with serving(model_dir, decode, prefill, config=ALWAYS_PREFILL) as stack:
        port = stack.router.http_port
        answers = [
            asyncio.create_task(collect(stack.client, "hello", request_id=name, max_tokens=9))
            for name in ("a", "b", "c")
        ]
        await asyncio.to_thread(decode.wait_for_request, 3)
        named = {request.request_id.rpartition("/")[2]: request for request in decode.requests}
        decode.say(named["b"], "x")
        decode.say(named["c"], "xyz")
        await stack.until(lambda status: status.router.requests_queued == 1)
        _, frame = await asyncio.to_thread(get, port, "/live/state")
        found = {each["id"]: each for each in frame["requests"]}
        stages = {name: each["stage"] for name, each in found.items()}
        assert stages == {"a": "prefill", "b": "handoff", "c": "decode"}
        assert (found["c"]["output_tokens"], found["c"]["max_tokens"]) == (3, 9)
        assert (found["c"]["prefill_worker"], found["c"]["decode_worker"]) == (
            "prefill-0",
            "decode-0",
        )
        assert (found["a"]["first_token_s"], found["a"]["pulled_tokens"]) == (None, None)
        age_s = frame["at_s"] - found["c"]["arrival_s"]
        assert 0 <= found["c"]["submitted_s"] <= found["c"]["first_token_s"] <= age_s + 0.001
        assert frame["router"]["in_flight"] == 3
        assert [(w["name"], w["state"]) for w in frame["workers"]] == [
            ("prefill-0", "ready"),
            ("decode-0", "ready"),
        ]
        for name, index in (("a", 0), ("b", 1), ("c", 3)):
            decode.say(named[name], "!", index, ends=True)
        await asyncio.gather(*answers)
        _, frame = await asyncio.to_thread(get, port, "/live/state")
        assert (frame["requests"], frame["router"]["completed"]) == ([], 3)


async def test_frames_come_while_somebody_looks_and_nothing_runs_afterwards(
    model_dir: Path,
) -> None:
    def look(port: int) -> list[dict[str, Any]]:
        with asked(port, "/live/events") as response:
            frames = frames_of(response)
            return [next(frames) for _ in range(3)]

    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        await collect(stack.client, "three")
        frames = await asyncio.to_thread(look, stack.router.http_port)
        assert [frame["router"]["completed"] for frame in frames] == [1, 1, 1]
        assert frames[0]["at_s"] < frames[1]["at_s"] < frames[2]["at_s"]
        assert frames[0]["workers"][0]["rates"] is None
        assert frames[2]["workers"][0]["rates"]["output_tokens_per_s"] == 0
        await until_unwatched(stack.router)
        # it can be looked at again
        assert len(await asyncio.to_thread(look, stack.router.http_port)) == 3


async def test_blocks_are_named_by_what_holds_them(model_dir: Path) -> None:
    def until_asked(port: int) -> dict[str, Any]:
        with asked(port, "/live/events") as response:
            for frame in frames_of(response):
                if "unaccounted" in frame["workers"][0]["blocks"]:
                    return frame
        raise AssertionError("no frame has the ledger")

    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        _, first = await in_thread(stack, "/live/state")
        assert first["workers"][0]["blocks"] == {"used": 0, "cached": 0, "free": 16}
        frame = await asyncio.to_thread(until_asked, stack.router.http_port)
        assert frame["workers"][0]["blocks"] == {"unaccounted": 0, "cached": 0, "free": 16}
        await stack.lose(0)
        await stack.until(lambda status: status.workers[0].state != 1)
        _, frame = await in_thread(stack, "/live/state")
        (lost,) = frame["workers"]
        assert (lost["state"], lost["load"], lost["blocks"]) == ("unreachable", None, None)


async def test_a_worker_s_word_on_a_request_is_shown_beside_the_router_s(model_dir: Path) -> None:
    def tell(_: str) -> BlockLedger:
        (request,) = worker.requests
        holder = BlockHolder(request.request_id, HolderState.PREFILLING, 3, 0, 50, 40, 0, 0.1)
        held = (HeldBlocks(HolderState.PREFILLING, 1, 3),)
        return BlockLedger(16, 13, 2, 0, 16, 1, (holder,), held)

    def until_told(port: int) -> dict[str, Any]:
        with asked(port, "/live/events") as response:
            for frame in frames_of(response):
                if frame["requests"][0]["state"]:
                    return frame
        raise AssertionError("the worker's word never came")

    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        answer = asyncio.create_task(collect(stack.client, "x" * 50, request_id="r"))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.ledger = tell
        frame = await asyncio.to_thread(until_told, stack.router.http_port)
        (found,) = frame["requests"]
        assert (found["stage"], found["state"]) == ("prefill", "prefilling")
        assert (found["computed_tokens"], found["prompt_tokens"]) == (40, 50)
        blocks = {"prefilling": 3, "unaccounted": 0, "cached": 2, "free": 11}
        assert frame["workers"][0]["blocks"] == blocks
        worker.say(request, "!", ends=True)
        await answer


async def test_kv_on_its_way_is_seen_while_prefill_runs(model_dir: Path) -> None:
    def holding(worker: ScriptedWorker, state: HolderState, num_tokens: int) -> None:
        name = decode.requests[0].request_id
        holder = BlockHolder(name, state, 4, 0, 50, num_tokens, 0, 0.1)
        worker.ledger = lambda _: BlockLedger(16, 12, 0, 0, 16, 1, (holder,))

    def until_both_told(port: int) -> dict[str, Any]:
        with asked(port, "/live/events") as response:
            for frame in frames_of(response):
                (request,) = frame["requests"]
                if request["computed_tokens"] and request["pulled_tokens"] is not None:
                    return frame
        raise AssertionError("the workers' words never came")

    prefill, decode = ScriptedWorker("prefill-0", Role.PREFILL), ScriptedWorker()
    async with serving(model_dir, decode, prefill, config=ALWAYS_PREFILL) as stack:
        answer = asyncio.create_task(collect(stack.client, "x" * 50))
        request = await asyncio.to_thread(decode.wait_for_request)
        holding(prefill, HolderState.PREFILLING, 40)
        holding(decode, HolderState.PULLING, 30)
        frame = await asyncio.to_thread(until_both_told, stack.router.http_port)
        (found,) = frame["requests"]
        assert (found["stage"], found["state"]) == ("prefill", "prefilling")
        assert (found["computed_tokens"], found["pulled_tokens"]) == (40, 30)
        decode.say(request, "!", ends=True)
        await answer


async def test_a_request_is_explained_and_an_unknown_one_is_not_found(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        await collect(stack.client, "hello", request_id="<b>/?&#1")
        status, found = await in_thread(stack, "/live/request?id=%3Cb%3E%2F%3F%26%231")
        assert (status, found["request_id"]) == (200, "<b>/?&#1")
        assert found["routes"][0]["decode_worker"] == "decode-0"
        assert found["finished"][0]["usage"]["completion_tokens"] == 5
        assert "total_us" in found["finished"][0]["timings"]
        for query in ("?id=nobody", "", "?id="):
            status, found = await in_thread(stack, f"/live/request{query}")
            assert (status, found["error"]["reason"]) == (404, "REQUEST_NOT_FOUND")
