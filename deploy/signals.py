"""SIGINT and SIGTERM of a serving process.

The first one cancels the process's main task: a start is given up, or running requests get time to
end. The second one cancels it once more, which ends that time. Later ones change nothing.

Ray's C++ code puts handlers of its own in place of ours at some moment of `ray.init`, which end the
process with a trace. So ours are put back again and again until the deployment serves.
"""

import asyncio
import signal
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PUT_BACK_S = 0.02
_MAX_CANCELS = 2


class EndSignals:
    """Handlers that cancel one task. Make and use them on the main thread's event loop."""

    def __init__(self, main: "asyncio.Task[Any]") -> None:
        self._main = main
        self._num_cancels = 0
        self._keeper: asyncio.Task[None] | None = None

    def install(self) -> None:
        """Put the handlers in place, and put them back until `settle`."""
        self._put()
        self._keeper = asyncio.create_task(self._keep())

    def settle(self) -> None:
        """Put the handlers in place for good: no other code replaces them from now on."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._put()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_PUT_BACK_S)
            self._put()

    def _put(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._end)

    def _end(self) -> None:
        self._num_cancels += 1
        if self._num_cancels <= _MAX_CANCELS:
            self._main.cancel()
