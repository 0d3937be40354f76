"""Access to the live page: by whom, by how many at once, and by those who only hold on."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.config import SecurityConfig
from common.router_config import RouterConfig
from router.edge import http
from router.edge.live.feed import MAX_VIEWERS
from tests.integration.support.guarded_router import ACME, OPS, guarded, issue, start
from tests.integration.support.live_page import (
    DATA,
    FILES,
    asked,
    frames_of,
    get,
    in_thread,
    status_of,
    until_unwatched,
)
from tests.integration.support.router_stack import HOST, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S


async def test_where_tokens_are_asked_for_the_data_is_for_admins_alone(
    model_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "access"
    tokens = issue(file, ACME, OPS)
    refusals = {
        "": (401, "CREDENTIALS_MISSING"),
        "wrong": (401, "CREDENTIALS_INVALID"),
        tokens["acme"]: (403, "ADMIN_REQUIRED"),
    }
    async with guarded(model_dir, ScriptedWorker(), SecurityConfig(access_file=file)) as router:
        await start(router)
        port = router.http_port
        for path in DATA:
            for token, expected in refusals.items():
                status, found = await asyncio.to_thread(get, port, path, token)
                assert (status, found["error"]["reason"]) == expected
                assert "workers" not in found
        assert [await asyncio.to_thread(status_of, router, path) for path in FILES] == [200] * 4
        for host in (HOST, "pds.example"):  # a name is no matter where a token is asked for
            status, _ = await asyncio.to_thread(get, port, "/live/state", tokens["ops"], host)
            assert status == 200


async def test_a_stream_ends_when_its_token_is_taken_away(model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "access"
    token = issue(file, OPS)["ops"]

    def look_until_the_end(started: Callable[[], object]) -> None:
        with asked(router.http_port, "/live/events", token) as response:
            frames = frames_of(response)
            next(frames)
            started()
            for _ in frames:
                pass

    async with guarded(model_dir, ScriptedWorker(), SecurityConfig(access_file=file)) as router:
        await start(router)
        began, loop = asyncio.Event(), asyncio.get_running_loop()
        looking = asyncio.create_task(
            asyncio.to_thread(look_until_the_end, lambda: loop.call_soon_threadsafe(began.set))
        )
        await began.wait()
        issue(file, ACME)
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
        await until_unwatched(stack.router)


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
