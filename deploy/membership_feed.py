"""Feed of a router with the membership of its deployment, from a thread of its own."""

import asyncio
import threading
from collections.abc import Callable

from common.telemetry.logs import get_logger
from router.workers.membership import Membership

_POLL_S = 1.0  # also the longest that a stop waits
_RETRY_S = 1.0

AwaitChange = Callable[[int, float], Membership]


class MembershipFeed:
    """Thread that asks the owner of the workers for changes, and hands them to an event loop.

    `await_change(version, timeout_s)` is Supervisor.await_change. While it fails the last membership
    stays valid.
    """

    def __init__(self, await_change: AwaitChange, follow: Callable[[Membership], None]) -> None:
        self._await_change = await_change
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
        version, is_known = 0, True
        while not self._is_closed.is_set():
            try:
                membership = self._await_change(version, _POLL_S)
            except Exception as error:
                if is_known:
                    get_logger().warning("membership_unknown", error=repr(error))
                is_known = False
                self._is_closed.wait(_RETRY_S)
                continue
            is_known = True
            if membership.version > version:
                version = membership.version
                self._loop.call_soon_threadsafe(self._follow, membership)
