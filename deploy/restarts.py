"""Restarts of workers, each in a thread of its own, at the times that the caller says."""

import threading
import time
from collections.abc import Callable

_LOOK_AGAIN_S = 5.0

TakeDue = Callable[[float], tuple[list[str], float | None]]


class Restarts:
    """Thread that waits for the next restart, and threads that carry restarts out.

    `take_due(now_s)` returns the names to restart now, and the time of the next. `restart(name)` starts
    a worker; it must end soon after `close` has been called, and raise nothing.
    """

    def __init__(self, take_due: TakeDue, restart: Callable[[str], None]) -> None:
        self._take_due = take_due
        self._restart = restart
        self._has_news = threading.Event()
        self._is_closed = False
        self._running: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="restarts", daemon=True)

    def start(self) -> None:
        """Start waiting."""
        self._thread.start()

    def wake(self) -> None:
        """Look again at what is due."""
        self._has_news.set()

    def close(self) -> None:
        """End all threads, and wait for that."""
        self._is_closed = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()
        for thread in self._running:
            thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            self._has_news.clear()
            due, next_s = self._take_due(time.monotonic())
            self._running = [thread for thread in self._running if thread.is_alive()]
            for name in due:
                thread = threading.Thread(
                    target=self._restart, args=(name,), name=f"restart {name}", daemon=True
                )
                self._running.append(thread)
                thread.start()
            wait_s = _LOOK_AGAIN_S if next_s is None else next_s - time.monotonic()
            self._has_news.wait(max(min(wait_s, _LOOK_AGAIN_S), 0.0))
