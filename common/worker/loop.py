"""The thread that an engine lives in. All engine state (scheduler, pool, cache) belongs to it alone.

1. `call` builds the engine in this thread, before `start`. OpenMP keeps a team of threads for every thread
   that ever used it; two teams on the same cores both stop spinning, which halves decode speed. A start
   that must be gentle builds it in another thread, which ends then, and its team with it (host.py).
2. Other threads `post` messages (callables). The loop runs them between steps, in order.
3. Then the loop calls the `step` of its role, which returns False when there was nothing to do.
4. With nothing to do the loop sleeps until the next message, at most `_IDLE_S`, then runs `on_idle`.
5. Another role of the same engine calls `start` again: from the next step on the loop drives that role.
6. An exception from `step` or a message ends the loop and goes to `on_crash`: a worker with a broken engine
   must die and be restarted, not pretend to live.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
_IDLE_S = 1.0

Message = Callable[[], None]


class EngineLoop:
    """Runs a role's steps, and messages between them, in a thread of its own."""

    def __init__(self, name: str, on_crash: Callable[[BaseException], None]) -> None:
        self._on_crash = on_crash
        self._step: Callable[[], bool] = _no_work
        self._on_idle: Message = _no_check
        self._mailbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopping = False
        self._busy = False
        self.last_progress_s = time.monotonic()

    @property
    def progress_age_s(self) -> float:
        """Seconds since the last step ended, while one is running; 0 when idle."""
        return time.monotonic() - self.last_progress_s if self._busy else 0.0

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Run `function` in the engine's thread; return or raise its outcome. For use before `start` only."""
        future: Future[T] = Future()
        self.post(lambda: _settle(future, function))
        self._begin()
        return future.result(timeout_s)

    def start(self, step: Callable[[], bool], on_idle: Message) -> None:
        """Drive `step`, and `on_idle` when `step` returned False: there was no work."""

        def drive() -> None:
            self._step, self._on_idle = step, on_idle

        self.post(drive)
        self._begin()

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def post(self, message: Message) -> None:
        """Run `message` in the engine's thread before its next step."""
        self._mailbox.put(message)

    def wake(self) -> None:
        """Make the loop look for work again."""
        self._mailbox.put(None)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after its current step; return False if it did not in time."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._drain()
                if not self._advance():
                    self._sleep()
        except (
            BaseException
        ) as error:  # the end of the loop; raised again it would only reach stderr
            self._on_crash(error)

    def _advance(self) -> bool:
        self._busy = True
        worked = self._step()
        self._busy = False
        self.last_progress_s = time.monotonic()
        return worked

    def _drain(self) -> None:
        while not self._mailbox.empty():
            self._handle(self._mailbox.get())

    def _sleep(self) -> None:
        try:
            self._handle(self._mailbox.get(timeout=_IDLE_S))
        except queue.Empty:
            self._on_idle()

    def _handle(self, message: Message | None) -> None:
        if message is not None:
            message()


def _no_work() -> bool:
    return False


def _no_check() -> None:
    pass


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # is the caller's, and raised in the caller's thread
        future.set_exception(error)
