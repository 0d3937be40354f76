import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from router.journey.merge import merge


class Source:
    """Gives what is put into it, until None; remembers whether it was closed."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.is_closed = False

    async def read(self) -> AsyncGenerator[int]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.is_closed = True


@pytest.mark.parametrize("number", [1, 3])
async def test_everything_comes_in_each_source_s_order(number: int) -> None:
    sources = [Source() for _ in range(number)]
    for place, source in enumerate(sources):
        for item in (*range(place * 10, place * 10 + 4), None):
            source.items.put_nowait(item)
    seen = [item async for item in merge([source.read() for source in sources])]
    assert sorted(seen) == [p * 10 + i for p in range(number) for i in range(4)]
    for place in range(number):
        mine = [item for item in seen if item // 10 == place]
        assert mine == sorted(mine)
    assert all(source.is_closed for source in sources)


async def test_items_come_as_they_are_there_whoever_is_slow() -> None:
    slow, quick = Source(), Source()
    async with aclosing(merge([slow.read(), quick.read()])) as merged:
        quick.items.put_nowait(1)
        assert await anext(merged) == 1
        slow.items.put_nowait(2)
        assert await anext(merged) == 2


@pytest.mark.parametrize("number", [1, 3])
async def test_a_failure_ends_all(number: int) -> None:
    sources = [Source() for _ in range(number)]
    sources[-1].items.put_nowait(KeyError("lost"))
    with pytest.raises(KeyError, match="lost"):
        _ = [item async for item in merge([source.read() for source in sources])]
    assert sources[-1].is_closed


@pytest.mark.parametrize("number", [1, 3])
async def test_who_stops_reading_closes_all(number: int) -> None:
    sources = [Source() for _ in range(number)]
    async with aclosing(merge([source.read() for source in sources])) as merged:
        for source in sources:
            source.items.put_nowait(1)
            await anext(merged)
    assert all(source.is_closed for source in sources)


async def test_what_is_not_read_stays_in_the_sources() -> None:
    """Unread items stay in the sources, so that their limits hold."""
    sources = [Source() for _ in range(2)]
    for source in sources:
        for item in range(1000):
            source.items.put_nowait(item)
    async with aclosing(merge([source.read() for source in sources])) as merged:
        await anext(merged)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sum(source.items.qsize() for source in sources) > 1980
