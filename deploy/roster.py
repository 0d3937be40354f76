"""Roster: the wanted workers with the latest process of each, and the news of them.

One lock guards all of it; whoever waits for news is woken by each change.
"""

import threading
import time
from collections import deque

from common.low_priority import StarvedError
from deploy.launched import Launched
from deploy.news import Event, News
from deploy.starting import NotReadyInTimeError, Ready
from deploy.wanted import WantedWorkers
from deploy.wanted_store import SavedWorker, to_saved
from pdserve.errors import PreconditionError

_MAX_EVENTS = 200  # kept for those who ask late


class Roster:
    """Versions and events are counted from `first_number`. Call methods from any thread."""

    def __init__(self, first_number: int = 0) -> None:
        self._workers: dict[str, Launched] = {}
        self._wanted = WantedWorkers(first_number)
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._num_events = first_number
        self._changed = threading.Condition()

    def add(self, ready: Ready) -> None:
        """Make a worker that serves a wanted one."""
        with self._changed:
            name = ready.worker.name
            self._workers[name] = ready.worker
            self._wanted.serves(name, ready.address, time.monotonic())
            self._changed.notify_all()

    def add_dead(self, worker: Launched, retired: str) -> None:
        """Make a worker that has no process a wanted one; it is started at once unless retired."""
        with self._changed:
            self._workers[worker.name] = worker
            self._wanted.serves(worker.name, "", time.monotonic())
            if retired:
                self._wanted.retire(worker.name, retired)
            else:
                self._wanted.died(worker.name, time.monotonic())

    def begins(self, process: Launched) -> bool:
        """Note the next process of a worker; return False if it is not wanted any more."""
        with self._changed:
            if process.name in self._wanted:
                self._workers[process.name] = process
            return process.name in self._wanted

    def serves(self, ready: Ready) -> bool:
        """Note that a process serves; return False if it is not wanted any more."""
        with self._changed:
            is_wanted = self._is_latest(ready.worker)
            if is_wanted:
                self.add(ready)
            return is_wanted

    def died(self, worker: Launched) -> bool:
        """Note the end of a process; return False if it was not wanted any more."""
        with self._changed:
            is_wanted = self._is_latest(worker)
            if is_wanted:
                self._wanted.died(worker.name, time.monotonic())
                self._changed.notify_all()
            return is_wanted

    def failed_start(self, name: str, error: Exception) -> float | None:
        """Note a failed start; return the seconds until the next, None if the worker is retired now."""
        with self._changed:
            now_s = time.monotonic()
            if isinstance(error, NotReadyInTimeError | StarvedError):
                return self._wanted.was_late(name, now_s)
            again_in_s = self._wanted.failed_start(name, now_s, str(error))
            self._changed.notify_all()
            return again_in_s

    def is_late(self, name: str) -> bool:
        """Return True while a worker's last start was given up for want of time."""
        with self._changed:
            return self._wanted.is_late(name)

    def remove(self, name: str) -> tuple[Launched | None, bool]:
        """Forget a worker; return its latest process, and True if that serves."""
        with self._changed:
            serves = bool(self._wanted.address(name))
            self._wanted.remove(name)
            self._changed.notify_all()
            return self._workers.pop(name, None), serves

    def change(self, worker: Launched) -> None:
        """Replace what is known of a process."""
        with self._changed:
            self._workers[worker.name] = worker

    def serving(self, name: str) -> Launched:
        """Return the process of a worker that serves. Raises PreconditionError."""
        with self._changed:
            if name not in self._wanted:
                raise PreconditionError(f"{name} is no worker of this deployment")
            if not self._wanted.address(name):
                raise PreconditionError(f"{name} is being restarted")
            return self._workers[name]

    def at(self, name: str, address: str) -> Launched | None:
        """Return the process that serves under this name at this address; None if there is none."""
        with self._changed:
            return (
                self._workers[name] if address and self._wanted.address(name) == address else None
            )

    def find(self, name: str) -> Launched | None:
        """Return the latest process of a worker; None if it is not wanted."""
        with self._changed:
            return self._workers.get(name)

    def processes(self) -> list[Launched]:
        """Return the latest process of each worker."""
        with self._changed:
            return list(self._workers.values())

    def take_due(self, now_s: float) -> tuple[list[str], float | None]:
        """Return the workers to start now, and the time of the next start."""
        with self._changed:
            return self._wanted.take_due(now_s), self._wanted.next_due_s()

    def saved(self) -> tuple[SavedWorker, ...]:
        """Return what the next process of the supervisor must know."""
        with self._changed:
            retired = {m.name: m.retired for m in self._wanted.membership().members}
            return tuple(to_saved(w, retired.get(n, "")) for n, w in self._workers.items())

    def tell(self, event: Event) -> None:
        """Add an event to the news."""
        with self._changed:
            self._events.append(event)
            self._num_events += 1
            self._changed.notify_all()

    def await_news(self, version: int, num_events: int, timeout_s: float) -> News:
        """Return what is new since these numbers, at the latest after `timeout_s`. -1 events: none."""
        with self._changed:
            known = self._num_events if num_events < 0 else num_events
            self._changed.wait_for(
                lambda: self._wanted.version != version or self._num_events != known, timeout_s
            )
            num_new = min(max(self._num_events - known, 0), len(self._events))
            events = tuple(self._events)[len(self._events) - num_new :]
            return News(self._wanted.membership(), events, self._num_events)

    def _is_latest(self, worker: Launched) -> bool:
        known = self._workers.get(worker.name)
        return known is not None and known.handle is worker.handle
