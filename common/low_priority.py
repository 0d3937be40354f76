"""Work that must not hold up what others do on the same cores.

1. Linux has a policy for each thread. One of SCHED_IDLE runs where nobody else wants the core, and makes way
   at once. One with a low priority gets slices of a core that others want, and they wait for their end.
2. A new thread inherits both from the one that makes it. Anybody may lower them. To raise them again takes a
   privilege that containers lack.
3. So such work gets a thread of its own, which ends with it. What serves afterwards begins elsewhere.
4. Where others want all cores all the time, a thread of SCHED_IDLE would never end. So it first tries what it
   would get. If that is too little, another thread does the work, with a low priority.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from common.telemetry.logs import get_logger

T = TypeVar("T")
# a quarter of a core, beside a thread that wants all of it: with 10 a start that met three of them per core
# took 65 s, half of `start_timeout_s`
_NICE = 5
_ROOM = 0.5  # of a core: with less the work would take too long
_TRY_S, _TRIES_S = 0.2, 2.0


def run_at_low_priority(function: Callable[[], T], timeout_s: float) -> T:
    """Run `function` in a thread of low priority; return or raise its outcome. Raises TimeoutError."""
    has_room, outcome = Future[bool](), Future[T]()

    def run_in_room() -> None:
        _settle(has_room, lambda: _lower(_be_idle) and _finds_room())
        if has_room.exception() is None and has_room.result():
            _settle(outcome, function)

    def run_beside_others() -> None:
        _lower(_be_nice)
        _settle(outcome, function)

    _start(run_in_room)
    if not has_room.result(timeout_s):
        _start(run_beside_others)  # from here: a thread of SCHED_IDLE could only start its like
    return outcome.result(timeout_s)


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="low-priority", daemon=True).start()


def _settle(outcome: Future[T], function: Callable[[], T]) -> None:
    try:
        outcome.set_result(function())
    except BaseException as error:  # is the caller's, and raised in the caller's thread
        outcome.set_exception(error)


def _lower(how: Callable[[], None]) -> bool:
    """Lower the calling thread's priority; return False where the system does not allow that."""
    try:
        if sys.platform == "linux":  # elsewhere threads have none of their own
            how()
            return True
    except OSError as error:  # a sandbox
        get_logger().debug("low_priority_refused", error=str(error))
    return False


def _be_idle() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _be_nice() -> None:
    thread = threading.get_native_id()
    nice = max(os.getpriority(os.PRIO_PROCESS, thread), _NICE)
    os.setpriority(os.PRIO_PROCESS, thread, nice)


def _finds_room() -> bool:
    """Take what others leave of a core until that is enough; return False if it is not in time."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < _TRIES_S:
        try_s, used_s = time.monotonic(), time.thread_time()
        while time.monotonic() - try_s < _TRY_S:
            pass
        if time.thread_time() - used_s >= _ROOM * (time.monotonic() - try_s):
            return True
    return False
