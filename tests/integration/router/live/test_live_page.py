"""The live page's paths at the router's HTTP port: files, frames, one request, and who may look."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.config import RouterConfig, SecurityConfig
from common.ledger import BlockHolder, BlockLedger, HeldBlocks, HolderState
from common.messages import Role
from router.app import Router
from router.edge import http
from router.edge.live.feed import MAX_VIEWERS
from tests.integration.support.guarded_router import ACME, OPS, guarded, issue, start
from tests.integration.support.live_page import asked, frames_of, get
from tests.integration.support.router_stack import ALWAYS_PREFILL, HOST, Stack, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S

FILES = ["/", "/live/live.css", "/live/live.js", "/live/icon.svg"]
DATA = ["/live/events", "/live/state", "/live/request?id=r"]


async def in_thread(stack: Stack, path: str, **options: str) -> tuple[int, Any]:
    return await asyncio.to_thread(get, stack.router.http_port, path, **options)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            await asyncio.sleep(0.005)


def status_of(router: Router, path: str) -> int:
    with asked(router.http_port, path) as response:
        return response.status


def is_watched(router: Router) -> bool:
    assert router._live_pages is not None
    return router._live_pages._feed._task is not None


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
        assert found["a"]["first_token_s"] is None
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
        await until(lambda: not is_watched(stack.router))
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


async def test_where_tokens_are_asked_for_the_data_is_for_admins_alone(
    model_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "access"
    tokens = issue(file, ACME, OPS)
    security = SecurityConfig(access_file=file)

    def look_until_the_end(started: Callable[[], object]) -> int:
        with asked(router.http_port, "/live/events", tokens["ops"]) as response:
            frames = frames_of(response)
            next(frames)
            started()
            return sum(1 for _ in frames)

    async with guarded(model_dir, ScriptedWorker(), security) as router:
        await start(router)
        for path in DATA:
            status, found = await asyncio.to_thread(get, router.http_port, path)
            assert (status, found["error"]["reason"]) == (401, "CREDENTIALS_MISSING")
            for token, expected in (
                ("wrong", (401, "CREDENTIALS_INVALID")),
                (tokens["acme"], (403, "ADMIN_REQUIRED")),
            ):
                status, found = await asyncio.to_thread(get, router.http_port, path, token)
                assert (status, found["error"]["reason"]) == expected
                assert "workers" not in found
        assert [await asyncio.to_thread(status_of, router, path) for path in FILES] == [200] * 4
        assert (await asyncio.to_thread(get, router.http_port, "/live/state", tokens["ops"]))[
            0
        ] == 200
        # a host name is no matter where a token is asked for
        named = await asyncio.to_thread(
            get, router.http_port, "/live/state", tokens["ops"], "pds.example"
        )
        assert named[0] == 200
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        looking = asyncio.create_task(
            asyncio.to_thread(look_until_the_end, lambda: loop.call_soon_threadsafe(began.set))
        )
        await began.wait()
        issue(file, ACME)  # takes the admin's token away
        await asyncio.wait_for(looking, WITHIN_S)


async def test_a_name_of_elsewhere_opens_nothing_of_a_router_for_its_own_machine(
    model_dir: Path,
) -> None:
    async with serving(model_dir, ScriptedWorker()) as stack:
        for host, expected in (
            ("localhost:8080", 200),
            ("[::1]:8080", 200),
            ("rebound.example", 403),
            ("[", 403),
        ):
            status, found = await in_thread(stack, "/live/state", host=host)
            assert status == expected, found


async def test_beyond_the_most_pages_others_are_told_to_wait_and_serving_goes_on(
    model_dir: Path,
) -> None:
    def crowd(port: int) -> None:
        with ExitStack() as stack:
            opened = [stack.enter_context(asked(port, "/live/events")) for _ in range(MAX_VIEWERS)]
            assert {response.status for response in opened} == {200}
            for _ in range(100):  # the rest of them
                with asked(port, "/live/events") as response:
                    assert (response.status, response.getheader("Retry-After")) == (503, "5")
                    assert b"32 pages are open" in response.read()
            assert next(frames_of(opened[-1]))["model"] == "tiny"
            full.set()
            assert served.wait(WITHIN_S)

    full, served = threading.Event(), threading.Event()
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        crowding = asyncio.create_task(asyncio.to_thread(crowd, stack.router.http_port))
        assert await asyncio.to_thread(full.wait, WITHIN_S)
        assert len(await collect(stack.client, "hello")) == 5
        assert (await in_thread(stack, "/live/state"))[0] == 200
        served.set()
        await crowding
        await until(lambda: not is_watched(stack.router))


async def test_streams_end_with_the_router(model_dir: Path) -> None:
    def look(port: int, started: Callable[[], object]) -> None:
        with asked(port, "/live/events") as response:
            frames = frames_of(response)
            next(frames)
            started()
            for _ in frames:
                pass

    async with serving(model_dir, ScriptedWorker()) as stack:
        began, loop = asyncio.Event(), asyncio.get_running_loop()
        looking = asyncio.create_task(
            asyncio.to_thread(
                look, stack.router.http_port, lambda: loop.call_soon_threadsafe(began.set)
            )
        )
        await began.wait()
    await asyncio.wait_for(looking, WITHIN_S)


async def test_the_page_can_be_switched_off_and_takes_nothing_but_get(model_dir: Path) -> None:
    def post(port: int) -> bytes:
        with socket.create_connection((HOST, port), WITHIN_S) as connection:
            connection.sendall(b"POST /live/state HTTP/1.0\r\n\r\n")
            return connection.makefile("rb").readline()

    async with serving(model_dir, ScriptedWorker()) as stack:
        assert b" 405 " in await asyncio.to_thread(post, stack.router.http_port)
    async with serving(model_dir, ScriptedWorker(), config=RouterConfig(live_page=False)) as stack:
        for path in (*FILES, *DATA):
            assert await asyncio.to_thread(status_of, stack.router, path) == 404


async def test_a_client_that_asks_nothing_is_cut_off(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http._Handler, "timeout", 0.01)

    def say_little(port: int) -> bytes:
        with socket.create_connection((HOST, port), WITHIN_S) as connection:
            connection.sendall(b"GET /live/ev")
            return connection.recv(1)

    async with serving(model_dir, ScriptedWorker()) as stack:
        assert await asyncio.to_thread(say_little, stack.router.http_port) == b""


def test_a_client_that_takes_nothing_counts_as_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        with pytest.raises(ConnectionAbortedError):
            http._ToClient(ours).write(bytes(2**24))
