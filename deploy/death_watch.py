"""Detection and logging of worker deaths, even if nobody else notices them.

Each worker has one open call that returns when it is stopped; Ray ends the call with an error
within milliseconds of the process's death. Code that stops a worker must forget it here first.
"""

import threading

import ray
from ray.exceptions import RayError

from common.telemetry.logs import get_logger
from deploy.launched import Launched

_POLL_S = 0.5


class DeathWatch:
    """Watcher of the serving workers, in a thread of its own."""

    def __init__(self) -> None:
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
        while not self._is_closed.wait(_POLL_S):
            watched = list(self._watched.values())
            ended = _ended([call for _, call in watched])
            for worker, call in watched:
                if call in ended and self._watched.pop(worker.name, None) is not None:
                    _say_how(worker, call)


def _ended(calls: "list[ray.ObjectRef[None]]") -> "list[ray.ObjectRef[None]]":
    if not calls:
        return []
    try:
        ended: list[ray.ObjectRef[None]] = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
    except RayError:  # Ray itself is gone; its end is reported elsewhere
        return []
    return ended


def _say_how(worker: Launched, call: "ray.ObjectRef[None]") -> None:
    try:
        ray.get(call, timeout=_POLL_S)
    except RayError as error:
        death = worker.examine(error)
        get_logger().error(
            "worker_died",
            worker=worker.name,
            reason=death.told_of(f"worker {worker.name}"),
            remedy=death.remedy,
            log=worker.where_to_look(),
        )
