"""Outages: times in which no decode worker can take work. Requests wait for their end.

1. `watch` asks every `_POLL_S` whether a worker is ready. The first "no" begins an outage.
2. `end` returns a future that is done when a worker is ready again, with the seconds that a request
   may wait for it. An outage of more than `max_s` seconds is not waited for any longer.
"""

import asyncio
import time
from collections.abc import Callable

from pdserve.errors import UnavailableError

_POLL_S = 0.05


class Outage:
    """Knows since when no worker is ready. Call all methods on the router's event loop."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        max_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_ready = is_ready
        self._max_s = max_s
        self._clock = clock
        self._since_s: float | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_POLL_S)

    def look(self) -> None:
        """Note whether a worker is ready now, and wake those that wait if one is."""
        if not self._is_ready():
            self._since_s = self._clock() if self._since_s is None else self._since_s
            return
        self._since_s = None
        for ended in [*self._waiting]:
            if not ended.done():
                ended.set_result(None)

    def left_s(self) -> float:
        """Return the seconds for which a request may wait. Raises UnavailableError without any.

        While a worker is ready there is no outage: who waits may look for itself again soon.
        """
        if self._since_s is None and self._is_ready():
            return max(self._max_s, _POLL_S)
        since_s = self._clock() if self._since_s is None else self._since_s
        left_s = since_s + self._max_s - self._clock()
        if left_s <= 0:
            raise UnavailableError("no decode worker is ready")
        return left_s

    def end(self) -> "asyncio.Future[None]":
        """Return a future that the next look with a ready worker completes; others may fail it."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(ended)
        ended.add_done_callback(self._waiting.discard)
        return ended
