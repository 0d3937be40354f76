"""Merge of several streams into one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


def merge(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    """Return a stream of the items of all sources as they come.

    The first failure of a source ends the stream. Closing the stream closes every source.
    """
    return sources[0] if len(sources) == 1 else _merge(sources)


async def _merge(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    # bounded: unread items stay in the sources, whose limits then hold
    news: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(maxsize=len(sources))
    tasks = [asyncio.create_task(_drain(source, news)) for source in sources]
    try:
        num_open = len(tasks)
        while num_open:
            entry = await news.get()
            if isinstance(entry, Exception):
                raise entry
            if entry is None:
                num_open -= 1
            else:
                yield entry[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(
    source: AsyncGenerator[T], news: asyncio.Queue[tuple[T] | Exception | None]
) -> None:
    try:
        async with aclosing(source):
            async for item in source:
                await news.put((item,))
        await news.put(None)
    except Exception as error:  # raised again in the reader's task
        await news.put(error)
