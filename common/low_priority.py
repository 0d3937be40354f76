"""Work that must not hold up what others do on the same cores.

1. Linux has a priority for each thread. A new thread inherits that of the one that makes it.
2. Anybody may lower a thread's priority. To raise it again takes a privilege that containers lack.
3. So such work gets a thread of its own, which ends with it. What serves afterwards begins elsewhere.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from common.telemetry.logs import get_logger

T = TypeVar("T")
# a quarter of a core, beside a thread that wants all of it: with 10 a start that met three of them per core
# took 65 s, half of `start_timeout_s`
_NICE = 5


def run_at_low_priority(function: Callable[[], T], timeout_s: float) -> T:
    """Run `function` in a thread of low priority; return or raise its outcome. Raises TimeoutError."""
    future: Future[T] = Future()

    def run() -> None:
        _lower_priority()
        try:
            future.set_result(function())
        except BaseException as error:  # is the caller's, and raised in the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, name="low-priority", daemon=True).start()
    return future.result(timeout_s)


def _lower_priority() -> None:
    """Lower the calling thread's priority; it stays where the system does not allow that."""
    try:
        if sys.platform == "linux":  # elsewhere threads have none of their own
            thread = threading.get_native_id()
            nice = max(os.getpriority(os.PRIO_PROCESS, thread), _NICE)
            os.setpriority(os.PRIO_PROCESS, thread, nice)
    except OSError as error:  # a sandbox
        get_logger().debug("low_priority_refused", error=str(error))
