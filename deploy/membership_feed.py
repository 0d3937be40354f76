"""Feed of a router with the membership of its deployment, from a thread of its own."""

import asyncio
import threading
from collections.abc import Callable

from common.telemetry.logs import get_logger
from deploy.news import News
from router.workers.membership import Membership

_POLL_S = 1.0  # also the longest that a stop waits
_RETRY_S = 1.0

AwaitNews = Callable[[int, int, float], News]


class MembershipFeed:
    """Thread that asks the supervisor for news; it hands memberships to an event loop, and logs events.

    `await_news(version, num_events, timeout_s)` is Roster.await_news. While it fails the last
    membership stays valid.
    """

    def __init__(self, await_news: AwaitNews, follow: Callable[[Membership], None]) -> None:
        self._await_news = await_news
        self._follow = follow
        self._loop = asyncio.get_running_loop()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    async def close(self) -> None:
        """End the thread, and wait for that."""
        self._is_closed.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        news, is_known = News(num_events=-1), True
        while not self._is_closed.is_set():
            before = news
            try:
                news = self._await_news(before.membership.version, before.num_events, _POLL_S)
                is_known = True
            except Exception as error:
                if is_known:
                    get_logger().warning("supervisor_unknown", error=str(error))
                is_known = False
                self._is_closed.wait(_RETRY_S)
                continue
            for event in news.events:
                event.log()
            if news.membership != before.membership:
                self._loop.call_soon_threadsafe(self._follow, news.membership)
