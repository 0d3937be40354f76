"""Work that runs to its end although it is cancelled."""

import asyncio

import pytest

from common.uninterrupted import uninterrupted


async def test_it_returns_what_the_work_returns() -> None:
    assert await uninterrupted(asyncio.sleep(0, "done")) == "done"


async def test_cancellations_wait_for_the_end_and_are_raised_then() -> None:
    may_end, ended = asyncio.Event(), []

    async def work() -> None:
        await may_end.wait()
        ended.append(True)

    task = asyncio.create_task(uninterrupted(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_an_error_of_the_work_is_raised_in_place_of_a_cancellation() -> None:
    may_end = asyncio.Event()

    async def work() -> None:
        await may_end.wait()
        raise ValueError("broken")

    task = asyncio.create_task(uninterrupted(work()))
    await asyncio.sleep(0)
    task.cancel()
    may_end.set()
    with pytest.raises(ValueError, match="broken"):
        await task
