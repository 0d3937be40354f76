"""Watchdog: workers that hang are killed and started again.

A dead process shows at once: its connection ends, and its deployment sees it. One that hangs shows by
silence, or by a step that does not end. A busy machine is slow: a step is no hang while it takes less than
`_SLOW_FOLD` times what the worker's profile predicts of the longest. The fleet is asked again if it
could not help.
"""

import asyncio
import time
from collections.abc import Callable

from common.profile import count_pairs
from common.telemetry.logs import get_logger
from pdserve.errors import PreconditionError
from router.scaling.fleet import Fleet
from router.workers.pool import WorkerPool
from router.workers.silence import SILENT_AFTER_S
from router.workers.view import WorkerState, WorkerView

_EVERY_S = 0.5
_SLOW_FOLD = (
    20.0  # a machine that is so much slower than when its profile was measured is only busy
)
_log = get_logger()


class Watchdog:
    """Looks at all workers of a pool, and asks their fleet to restart those that hang for `after_s`."""

    def __init__(
        self,
        pool: WorkerPool,
        fleet: Fleet,
        after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._fleet = fleet
        self._after_s = after_s
        self._clock = clock
        self._unreachable_since_s: dict[str, float] = {}  # by address, both of them
        self._asked_s: dict[str, float] = {}

    async def run(self) -> None:
        """Look for ever, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Look once."""
        views = self._pool.views()
        self._forget_all_but({view.address for view in views})
        for view in views:
            reason = self._reason(view)
            asked_s, now_s = self._asked_s.get(view.address), self._clock()
            if reason and (asked_s is None or now_s - asked_s >= self._after_s):
                self._asked_s[view.address] = now_s
                await self._restart(view, reason)

    def _reason(self, view: WorkerView) -> str:
        """Return why a worker must be restarted; "" if it need not."""
        if view.state is not WorkerState.UNREACHABLE:
            self._unreachable_since_s.pop(view.address, None)
            age_s = view.load.progress_age_s
            is_hung = view.is_connected and age_s > max(self._after_s, _longest_step_s(view))
            return f"has work and ended no step for {age_s:.0f} s" if is_hung else ""
        now_s = self._clock()
        since_s = now_s - SILENT_AFTER_S if view.is_silent else now_s
        since_s = self._unreachable_since_s.setdefault(view.address, since_s)
        is_lost = now_s - since_s >= self._after_s
        return f"does not answer for {self._after_s:g} s" if is_lost else ""

    async def _restart(self, view: WorkerView, reason: str) -> None:
        try:
            await self._fleet.restart(view.info.name, view.address, reason)
        except PreconditionError as error:
            _log.error("restart_refused", worker=view.info.name, error=error.message)

    def _forget_all_but(self, addresses: set[str]) -> None:
        for times in (self._asked_s, self._unreachable_since_s):
            for address in times.keys() - addresses:
                del times[address]


def _longest_step_s(view: WorkerView) -> float:
    """Return the seconds that a step may take on a busy machine: a full chunk after a full context."""
    profile, num_before = view.info.profile, view.info.max_context_tokens
    num_tokens = profile.max_batch_tokens
    return _SLOW_FOLD * profile.prompt_s(num_tokens, count_pairs(num_tokens, num_before))
