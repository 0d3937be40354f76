"""A thousand browsers at the live page at once: as many as there are places see the same frames."""

import asyncio
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.edge.live.feed import MAX_VIEWERS
from tests.integration.support.live_page import until_unwatched
from tests.integration.support.router_stack import HOST, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S

NUM_BROWSERS = 1000
NUM_FRAMES = 3
ASK = b"GET /live/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open two sockets a browser."""
    wanted, (soft, hard) = 3 * NUM_BROWSERS, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} open files are not permitted (ulimit -Hn: {hard})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def come(port: int) -> tuple[bytes, Stream]:
    """Ask for the frames; return the answer's head, and the rest to read."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(ASK)
    return await reader.readuntil(b"\r\n\r\n"), (reader, writer)


async def look(stream: Stream) -> list[bytes]:
    """Return the next frames."""
    frames: list[bytes] = []
    while len(frames) < NUM_FRAMES:
        line = await stream[0].readline()
        assert line
        frames += [line] if line.startswith(b"data: ") else []
    return frames


def num_serving() -> int:
    """Count the threads that answer a browser."""
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


@pytest.mark.usefixtures("many_files")
async def test_of_a_thousand_browsers_those_with_a_place_see_the_same_frames(
    model_dir: Path,
) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack, asyncio.timeout(WITHIN_S):
        pages = stack.router._live_pages
        assert pages is not None
        port = stack.router.http_port
        found = await asyncio.gather(*(come(port) for _ in range(NUM_BROWSERS)))
        shown = [stream for head, stream in found if b" 200 " in head]
        refused = [(head, stream) for head, stream in found if b" 200 " not in head]
        assert len(shown) == MAX_VIEWERS
        for head, (reader, writer) in refused:
            assert b" 503 " in head
            assert b"\r\nRetry-After: 5\r\n" in head
            assert b"32 pages are open" in await reader.read()
            writer.close()
        # one sampler for all: no viewer has a frame of its own
        seen = await asyncio.gather(*map(look, shown))
        assert len({frame for frames in seen for frame in frames}) <= pages._feed._number
        assert len(await collect(stack.client, "hello")) == 5
        while num_serving() > MAX_VIEWERS:  # nothing is left of the others
            await asyncio.sleep(0.005)
        for _, writer in shown:
            writer.close()
        await until_unwatched(stack.router)
