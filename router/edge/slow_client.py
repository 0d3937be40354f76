"""A limit of time for a client that does not read its stream.

gRPC buffers a few megabytes for such a client; then writing blocks, and the limit counts.
"""

import asyncio
from collections.abc import Awaitable

from common.rpc.status import error_from_reason
from pdserve.errors import Reason
from router.workers.unread import SLOW_CLIENT


class Delivery:
    """The sends of one stream, one after another, each of which has to be taken in time.

    One timer serves many sends: it looks at the send that waits when it rings, and rings again when
    that one is due. asyncio.timeout sets a timer for each, a tenth of what a streamed token costs.
    """

    def __init__(self, within_s: float) -> None:
        """Give a client `within_s` seconds for each send."""
        self._within_s = within_s
        self._waiting: asyncio.Task[object] | None = None  # for the send that is not taken yet
        self._due_s = 0.0  # on the loop's clock, when that send is late
        self._is_late = False
        self._timer: asyncio.TimerHandle | None = None

    async def deliver(self, sending: Awaitable[None]) -> None:
        """Wait for a client to take what is sent. Raises OverloadedError when it does not in time."""
        self._waiting = task = asyncio.current_task()
        num_cancels = task.cancelling() if task else 0
        self._begin()
        try:
            await sending
        except asyncio.CancelledError:
            if self._take_back(task, num_cancels):
                raise error_from_reason(Reason.SLOW_CONSUMER, SLOW_CLIENT) from None
            raise
        finally:
            self._waiting = None
            self._take_back(task, num_cancels)

    def _take_back(self, task: "asyncio.Task[object] | None", num_cancels: int) -> bool:
        """Take the timer's cancellation back; return True if it is the only new one."""
        if not self._is_late or task is None:
            return False
        self._is_late = False
        return task.uncancel() <= num_cancels

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + self._within_s
        if self._timer is None:
            self._timer = loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._due_s:
            self._timer = loop.call_at(self._due_s, self._look)
        else:
            self._is_late = True
            self._waiting.cancel()
