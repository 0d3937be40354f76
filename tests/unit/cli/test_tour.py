"""The tour of `pdserve demo`, and the live page's address where a deployment is ready."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from cli.serve import ready_lines
from cli.tour import describe, go_on_until_enter
from deploy.endpoints import Endpoints
from pdserve.errors import UnavailableError


@contextmanager
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make stdin and stdout a terminal; yield the end at which keys are pressed."""
    keys, ours = os.openpty()
    with open(ours, closefd=False) as reading, open(ours, "w", closefd=False) as writing:
        monkeypatch.setattr("sys.stdin", reading)
        monkeypatch.setattr("sys.stdout", writing)
        yield keys
    for end in (keys, ours):
        os.close(end)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080/"),
        ("0.0.0.0", "http://127.0.0.1:8080/"),
        ("::1", "http://[::1]:8080/"),
    ],
)
def test_the_last_line_when_ready_is_the_live_page_s_address(host: str, address: str) -> None:
    endpoints = Endpoints(host, 50051, 8080, has_live_page=True)
    assert ready_lines("m", endpoints, "http").splitlines()[2:] == [f"live page: {address}"]
    assert address in describe(address)


async def test_without_a_terminal_the_demo_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        await go_on_until_enter(Console(quiet=True), _never)


async def test_at_a_terminal_the_prompts_go_on_until_enter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_asked = 0

    async def ask() -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked == 3:
            os.write(keys, b"\n")
        await asyncio.sleep(0)

    with at_terminal(monkeypatch) as keys:
        await go_on_until_enter(Console(quiet=True), ask)
    assert num_asked >= 3


async def test_at_a_terminal_a_failure_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise UnavailableError("gone")

    with at_terminal(monkeypatch), pytest.raises(UnavailableError):
        await go_on_until_enter(Console(quiet=True), fail)


async def _never() -> None:
    raise AssertionError("nobody looks")
