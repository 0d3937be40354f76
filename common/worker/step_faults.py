"""Failpoints of an engine's steps: a worker that is killed, hangs or is slow at a step."""

import os
import signal
import threading
import time
from collections.abc import Callable

from common import failpoints

Step = Callable[[], bool]


def with_step_faults(worker: str, step: Step) -> Step:
    """Return the step itself, or one that fails where a failpoint is active for this worker."""
    exit_at = failpoints.value_for("exit_at_step", worker)
    hang_at = failpoints.value_for("hang_at_step", worker)
    slower_s = failpoints.value_for("slow_steps", worker)
    if exit_at is None and hang_at is None and slower_s is None:
        return step
    faults = {int(at or 0): fail for at, fail in ((exit_at, _die), (hang_at, _hang)) if at}
    return _FaultyStep(step, faults, float(slower_s or 0))


class _FaultyStep:
    def __init__(self, step: Step, faults: dict[int, Callable[[], None]], slower_s: float) -> None:
        self._step = step
        self._faults = faults
        self._slower_s = slower_s
        self._number = 1  # of the next step with work

    def __call__(self) -> bool:
        """Do the step, and fail behind the one before the N-th: the router has its tokens."""
        worked = self._step()
        if worked:
            self._number += 1
            time.sleep(self._slower_s)
            if fail := self._faults.get(self._number):
                fail()
        return worked


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    threading.Event().wait()
