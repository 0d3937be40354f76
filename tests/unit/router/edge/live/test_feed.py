"""The feed: frames are made while somebody looks, and a slow reader misses some."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from router.edge.live.feed import Feed, Viewer
from tests.patience import WITHIN_S


class Source:
    """Frames that a test lets out one by one."""

    def __init__(self) -> None:
        self.num_started = 0
        self.num_ended = 0
        self.waiting: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    async def frames(self) -> AsyncGenerator[bytes]:
        """Yield what is put in; raise it if it is an exception."""
        self.num_started += 1
        try:
            while True:
                frame = await self.waiting.get()
                if isinstance(frame, Exception):
                    raise frame
                yield frame
        finally:
            self.num_ended += 1


async def read(viewer: Viewer | None) -> bytes | None:
    assert viewer is not None
    return await asyncio.to_thread(viewer.next, WITHIN_S)


async def until_ended(source: Source, number: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while source.num_ended < number:
            await asyncio.sleep(0)


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def feed(source: Source) -> Feed:
    return Feed(asyncio.get_running_loop(), source.frames, max_viewers=2)


async def test_all_viewers_get_the_frames_of_one_source(feed: Feed, source: Source) -> None:
    one, other = feed.open(), feed.open()
    source.waiting.put_nowait(b"1")
    assert (await read(one), await read(other)) == (b"1", b"1")
    source.waiting.put_nowait(b"2")
    assert (await read(one), await read(other)) == (b"2", b"2")
    assert source.num_started == 1
    await feed.stop()


async def test_a_slow_viewer_misses_frames_and_none_are_kept_for_it(
    feed: Feed, source: Source
) -> None:
    slow, quick = feed.open(), feed.open()
    for number in range(100):
        source.waiting.put_nowait(b"%d" % number)
        assert await read(quick) == b"%d" % number
    assert await read(slow) == b"99"
    await feed.stop()


async def test_beyond_the_most_viewers_there_is_no_place_until_one_leaves(
    feed: Feed, source: Source
) -> None:
    one, other = feed.open(), feed.open()
    assert (one is None, other is None, feed.open()) == (False, False, None)
    assert one is not None
    one.close()
    one.close()
    third = feed.open()
    assert third is not None
    assert feed.open() is None
    source.waiting.put_nowait(b"1")
    assert await read(third) == b"1"
    await feed.stop()


async def test_without_viewers_the_source_ends_and_the_next_viewer_starts_it_anew(
    feed: Feed, source: Source
) -> None:
    viewer = feed.open()
    source.waiting.put_nowait(b"1")
    assert await read(viewer) == b"1"
    assert viewer is not None
    viewer.close()
    source.waiting.put_nowait(b"2")
    await until_ended(source, 1)
    again = feed.open()
    source.waiting.put_nowait(b"3")
    assert await read(again) == b"3"
    assert source.num_started == 2
    await feed.stop()


async def test_one_who_comes_as_the_source_ends_is_served(feed: Feed, source: Source) -> None:
    viewer = feed.open()
    source.waiting.put_nowait(b"1")
    await read(viewer)
    assert viewer is not None
    viewer.close()
    late = feed.open()  # before the frame that would end the source
    source.waiting.put_nowait(b"2")
    assert await read(late) == b"2"
    await feed.stop()


async def test_a_stopped_feed_lets_its_viewers_go_and_takes_no_others(
    feed: Feed, source: Source
) -> None:
    reading = asyncio.create_task(read(feed.open()))
    while not source.num_started:
        await asyncio.sleep(0)
    await feed.stop()
    assert await reading is None
    assert source.num_ended == 1
    assert feed.open() is None


async def test_a_source_that_fails_is_logged_once_and_started_by_the_next_viewer(
    feed: Feed, source: Source
) -> None:
    viewer = feed.open()
    source.waiting.put_nowait(ValueError("a bug"))
    with capture_logs() as logs:
        await until_ended(source, 1)
        await asyncio.sleep(0)
    assert [line["event"] for line in logs] == ["live_page_failed"]
    assert viewer is not None
    assert viewer.next(0.0) is None
    again = feed.open()
    source.waiting.put_nowait(b"1")
    assert await read(again) == b"1"
    await feed.stop()
