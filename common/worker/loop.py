"""The thread an engine lives in.

0. `call` builds the engine in this thread, before `start`: OpenMP keeps a team of threads for every thread
   that ever used it, and with two teams on the same cores both stop spinning, which halves decode speed.
1. Other threads `post` messages (callables); the loop runs them between steps, in order.
2. Then it calls the `step` it was started with, which returns whether there was anything to do.
3. With nothing to do it sleeps until the next message, at most `_IDLE_S`, then runs `on_idle`.
4. `start` again, by another role of the same engine: from its next step on the loop drives that one.
5. An exception from `step` or a message ends the loop and is handed to `on_crash`: a worker with a broken
   engine must die and be restarted, not pretend to live.

All engine state (scheduler, pool, cache) belongs to this thread; nobody else touches it.
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
    """Runs what `start` is given in a thread of its own."""

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
        """Seconds since the last step while one is running; 0 when idle."""
        return time.monotonic() - self.last_progress_s if self._busy else 0.0

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """What `function` returns or raises, run in the engine's thread. Before `start` only."""
        future: Future[T] = Future()
        self.post(lambda: _settle(future, function))
        self._thread.start()
        return future.result(timeout_s)

    def start(self, step: Callable[[], bool], on_idle: Message) -> None:
        """Drive `step`, which returns whether there was work, and `on_idle` where there was none."""

        def drive() -> None:
            self._step, self._on_idle = step, on_idle

        self.post(drive)
        if self._thread.ident is None:
            self._thread.start()

    def post(self, message: Message) -> None:
        """Have `message` run in the engine's thread before its next step."""
        self._mailbox.put(message)

    def wake(self) -> None:
        """Have the loop look for work again."""
        self._mailbox.put(None)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after its current step; whether it did in time."""
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
        except BaseException as error:  # the loop's last word; re-raising would only reach stderr
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
    except BaseException as error:  # belongs to the caller, in the caller's thread
        future.set_exception(error)
