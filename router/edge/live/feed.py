"""Frames for the threads that serve browsers: made on the event loop, while somebody looks.

1. `Feed.open` counts a viewer, or refuses it. The first one starts the frames.
2. A frame takes the place of the one before. `Viewer.next` waits for a newer one, so that a slow
   reader misses frames, and none are kept for it.
3. `Viewer.close` gives the place back. Without viewers the frames end with the next one.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from common.telemetry.logs import get_logger

MAX_VIEWERS = 32
_log = get_logger()


class Feed:
    """The latest frame, and the viewers that wait for the next. Its methods suit any thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        frames: Callable[[], AsyncGenerator[bytes]],
        max_viewers: int = MAX_VIEWERS,
    ) -> None:
        """Take frames from `frames`, called on `loop` each time that somebody begins to look."""
        self.max_viewers = max_viewers
        self._loop = loop
        self._frames = frames
        self._changed = threading.Condition()
        self._num_viewers = 0
        self._number = 0  # of the latest frame
        self._latest = b""
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None  # the loop's alone

    def open(self) -> "Viewer | None":
        """Return a viewer, or None where there are max_viewers; `Viewer.close` must follow."""
        with self._changed:
            if self._is_closed or self._num_viewers >= self.max_viewers:
                return None
            self._num_viewers += 1
            number = self._number
        self._loop.call_soon_threadsafe(self._start)
        return Viewer(self, number)

    def close(self) -> None:
        """End all viewers, and refuse others."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def stop(self) -> None:
        """Close, and end the frames; call it on the loop."""
        self.close()
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])

    def next(self, number: int, timeout_s: float) -> tuple[int, bytes] | None:
        """Wait for a frame after `number`; return it with its number, None if none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._number > number, timeout_s)
            if self._is_closed or self._number <= number:
                return None
            return self._number, self._latest

    def leave(self) -> None:
        """Count one viewer less."""
        with self._changed:
            self._num_viewers -= 1

    def _start(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._is_watched():  # also by one who came after the last frame
                async with aclosing(self._frames()) as frames:
                    async for frame in frames:
                        self._publish(frame)
                        if not self._is_watched():
                            break
        except Exception:
            _log.exception("live_page_failed")  # viewers see no frame in time, and come again
        finally:
            self._task = None

    def _publish(self, frame: bytes) -> None:
        """Show a frame to all viewers."""
        with self._changed:
            self._number += 1
            self._latest = frame
            self._changed.notify_all()

    def _is_watched(self) -> bool:
        with self._changed:
            return bool(self._num_viewers) and not self._is_closed


class Viewer:
    """One reader's place in a feed. For one thread."""

    def __init__(self, feed: Feed, number: int) -> None:
        self._feed = feed
        self._number = number
        self._is_open = True

    def next(self, timeout_s: float) -> bytes | None:
        """Return the next frame; None if none came in time, or the feed is closed."""
        found = self._feed.next(self._number, timeout_s)
        if found is None:
            return None
        self._number, frame = found
        return frame

    def close(self) -> None:
        """Give the place back. Safe to repeat."""
        if self._is_open:
            self._is_open = False
            self._feed.leave()
