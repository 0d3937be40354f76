"""Work that must not hold up what others do on the same cores.

1. Linux has a policy for each thread. One of SCHED_IDLE runs where nobody else wants the core, and makes way
   at once. One with a low priority gets slices of a core that others want, and they wait for their end.
2. A new thread inherits both from the one that makes it. Anybody may lower them. To raise them again takes a
   privilege that containers lack.
3. So such work gets a thread of its own, which ends with it. What serves afterwards begins elsewhere.
4. Where others want all cores all the time, a thread of SCHED_IDLE would never end. So it first tries what it
   would get. If that is too little, another thread does the work, with a low priority.
5. Others may come later. By 2. the thread cannot be raised then, and nobody else can end its work. So it is
   given up, once it is clear that it would take too long.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

T = TypeVar("T")
# a quarter of a core, beside a thread that wants all of it: with 10 a start that met three of them per core
# took 65 s, half of `start_timeout_s`
_NICE = 5
_ROOM = 0.5  # of a core: with less the work would take too long
# others first go on with the streams of a worker that died, and take all cores for some 6 s
_TRY_S, _TRIES_S = 0.5, 8.0
_LOOK_S = 1.0
_LEAST, _WANTED_S = 0.1, 15.0  # a start takes 4 to 9 s of a core: with less it would not be in time


class StarvedError(SetupError):
    """Failure of work that was given up, since others wanted all cores; that says nothing about the work."""


def starved() -> StarvedError:
    """Return the error for a start."""
    return StarvedError("others left a gentle start no core", "try again when they do less")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds that a thread has had of the cores, and that it has waited for one."""

    ran_s: float
    waited_s: float


class Starvation:
    """Judgement on what a thread gets of the time that it wants, span by span."""

    def __init__(self, begun: CpuTimes) -> None:
        self._begun = begun

    def is_seen(self, now: CpuTimes) -> bool:
        """Return True if the thread got too little since the last span, of `_WANTED_S` or more, ended."""
        ran_s, waited_s = now.ran_s - self._begun.ran_s, now.waited_s - self._begun.waited_s
        if ran_s + waited_s < _WANTED_S:
            return False
        self._begun = now
        return ran_s < _LEAST * (ran_s + waited_s)


def run_at_low_priority(function: Callable[[], T], timeout_s: float) -> T:
    """Run `function` in a thread of low priority; return or raise its outcome.

    Raises StarvedError, or TimeoutError, and `function` may go on then.
    """
    has_room, outcome = Future[int | None](), Future[T]()

    def run_in_room() -> None:
        _settle(has_room, _idle_thread)
        if has_room.exception() is None and has_room.result() is not None:
            _settle(outcome, function)

    _start(run_in_room)
    thread = has_room.result(timeout_s)
    if thread is None:  # from here: a thread of SCHED_IDLE could only start its like
        return run_beside_others(function, timeout_s)
    return _await(outcome, thread, timeout_s)


def run_beside_others(function: Callable[[], T], timeout_s: float) -> T:
    """Run `function` in a thread that gets its share, a low one, of a core that others want.

    Return or raise its outcome. Raises TimeoutError.
    """
    outcome = Future[T]()

    def run() -> None:
        _lower(_be_nice)
        _settle(outcome, function)

    _start(run)
    return outcome.result(timeout_s)


def _await(outcome: Future[T], thread: int, timeout_s: float) -> T:
    deadline_s = time.monotonic() + timeout_s
    starvation = Starvation(_read_times(thread))
    while not wait((outcome,), _LOOK_S).done:
        if starvation.is_seen(_read_times(thread)):
            raise starved()
        if time.monotonic() > deadline_s:
            raise TimeoutError
    return outcome.result()


def _read_times(thread: int) -> CpuTimes:
    """Return the times of a thread of this process; zeros where the system does not tell."""
    try:
        ran_ns, waited_ns, _ = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    except (OSError, ValueError):
        return CpuTimes(0.0, 0.0)
    return CpuTimes(int(ran_ns) / 1e9, int(waited_ns) / 1e9)


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="low-priority", daemon=True).start()


def _settle(outcome: Future[T], function: Callable[[], T]) -> None:
    try:
        outcome.set_result(function())
    except BaseException as error:  # is the caller's, and raised in the caller's thread
        outcome.set_exception(error)


def _idle_thread() -> int | None:
    """Make the calling thread one of SCHED_IDLE, and return its number; None if it finds no room."""
    return threading.get_native_id() if _lower(_be_idle) and _finds_room() else None


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
