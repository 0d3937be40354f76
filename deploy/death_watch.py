"""Detection and logging of worker deaths, even if nobody else notices them.

Each worker has one open call that returns when it is stopped; Ray ends the call with an error
within milliseconds of the process's death. Code that stops a worker must forget it here first.
"""

import threading
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from deploy.launched import Launched
from deploy.news import Tell, make_event

_POLL_S = 0.5


class DeathWatch:
    """Watcher of the serving workers, in a thread of its own.

    `on_death` is called in that thread, before the death is examined: that may take seconds.
    """

    def __init__(self, on_death: Callable[[Launched], None], tell: Tell) -> None:
        self._on_death = on_death
        self._tell = tell
        self._watched: dict[str, tuple[Launched, ray.ObjectRef[None]]] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="death-watch", daemon=True)

    def add(self, worker: Launched) -> None:
        """Watch a worker that has started."""
        self._watched[worker.name] = worker, worker.handle.wait_stopped.remote()
        if self._thread.ident is None:
            self._thread.start()

    def forget(self, name: str) -> None:
        """Stop watching a worker that is about to be stopped."""
        self._watched.pop(name, None)

    def close(self) -> None:
        """Forget all workers, and end the thread; must run before Ray stops."""
        self._watched.clear()
        self._is_closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            watched = list(self._watched.values())
            ended = self._wait([call for _, call in watched])
            for entry in watched:
                worker, call = entry
                if call in ended and self._watched.get(worker.name) is entry:
                    self.forget(worker.name)
                    self._on_death(worker)
                    self._say_how(worker, call)

    def _wait(self, calls: "list[ray.ObjectRef[None]]") -> "list[ray.ObjectRef[None]]":
        """Return the calls that have ended, as soon as one has; an empty list after _POLL_S."""
        try:
            if calls:
                ended: list[ray.ObjectRef[None]] = ray.wait(calls, timeout=_POLL_S)[0]
                return ended
        except RayError:  # Ray itself is gone; its end is reported elsewhere
            pass
        self._is_closed.wait(_POLL_S)
        return []

    def _say_how(self, worker: Launched, call: "ray.ObjectRef[None]") -> None:
        try:
            ray.get(call, timeout=_POLL_S)
        except RayError as error:
            death = worker.examine(error)
            reason, look = death.told_of(f"worker {worker.name}"), worker.where_to_look()
            fields = {"worker": worker.name, "reason": reason, "remedy": death.remedy, "log": look}
            self._tell(make_event("error", "worker_died", **fields))
