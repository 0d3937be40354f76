"""State of the wanted workers: who serves, who is to be started again and when, who is retired.

Plain arithmetic: the caller gives the time, in seconds of a monotonic clock, and starts the processes.

1. A worker that dies is started again after `DELAYS_S`: at once the first time, then later and later.
2. After `SERVED_WELL_S` of service the count begins anew.
3. One that fails `MAX_FAILED_STARTS` starts in a row is retired: it is not started again.
"""

from dataclasses import dataclass

from router.workers.membership import Member, Membership

DELAYS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
SERVED_WELL_S = 60.0
MAX_FAILED_STARTS = 3


@dataclass(slots=True)
class _Worker:
    address: str = ""  # "" unless it serves
    serving_since_s: float = 0.0
    due_s: float | None = None  # when to start it; None while it serves, starts or is retired
    num_deaths: int = 0  # failed starts included
    num_failed_starts: int = 0  # in a row
    was_late: bool = False  # the last start was given up before it was ready
    retired: str = ""

    def put_off(self, now_s: float) -> float:
        """Count a death, and return the seconds until the next start."""
        delay_s = DELAYS_S[min(self.num_deaths, len(DELAYS_S) - 1)]
        self.num_deaths += 1
        self.due_s = now_s + delay_s
        return delay_s


class WantedWorkers:
    """Wanted workers by name. Not thread-safe."""

    def __init__(self, version: int = 0) -> None:
        self._workers: dict[str, _Worker] = {}
        self._version = version

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    @property
    def version(self) -> int:
        """Version of the membership; greater after each change that routers are told."""
        return self._version

    def address(self, name: str) -> str:
        """Return a worker's address; "" while it does not serve, or is not wanted."""
        worker = self._workers.get(name)
        return worker.address if worker else ""

    def serves(self, name: str, address: str, now_s: float) -> None:
        """Note that a process serves under this name; a new name becomes a wanted worker."""
        worker = self._workers.setdefault(name, _Worker())
        worker.address, worker.serving_since_s, worker.due_s = address, now_s, None
        worker.num_failed_starts, worker.was_late = 0, False
        self._version += 1

    def is_late(self, name: str) -> bool:
        """Return True while a worker's last start was given up for want of time."""
        worker = self._workers.get(name)
        return worker is not None and worker.was_late

    def remove(self, name: str) -> None:
        """Forget a worker that is not wanted any more."""
        self._workers.pop(name, None)
        self._version += 1

    def died(self, name: str, now_s: float) -> float:
        """Note the death of a worker that served; return the seconds until its next start."""
        worker = self._workers[name]
        if now_s - worker.serving_since_s >= SERVED_WELL_S:
            worker.num_deaths = 0
        worker.address = ""
        self._version += 1
        return worker.put_off(now_s)

    def failed_start(self, name: str, now_s: float, reason: str) -> float | None:
        """Note a failed start; return the seconds until the next. None: it is retired, for `reason`."""
        worker = self._workers[name]
        worker.num_failed_starts += 1
        if worker.num_failed_starts < MAX_FAILED_STARTS:
            return worker.put_off(now_s)
        self.retire(name, reason)
        return None

    def retire(self, name: str, reason: str) -> None:
        """Start a worker no more."""
        worker = self._workers[name]
        worker.retired, worker.due_s = reason, None
        self._version += 1

    def was_late(self, name: str, now_s: float) -> float:
        """Note a start that was given up, by no fault of the worker; return the seconds until the next."""
        worker = self._workers[name]
        worker.was_late = True
        return worker.put_off(now_s)

    def take_due(self, now_s: float) -> list[str]:
        """Return the workers to start now; each only once."""
        due = [n for n, w in self._workers.items() if w.due_s is not None and w.due_s <= now_s]
        for name in due:
            self._workers[name].due_s = None
        return due

    def next_due_s(self) -> float | None:
        """Return the time of the next start; None if none is put off."""
        return min((w.due_s for w in self._workers.values() if w.due_s is not None), default=None)

    def membership(self) -> Membership:
        """Return what routers are told."""
        members = [Member(name, w.address, w.retired) for name, w in self._workers.items()]
        return Membership(self._version, tuple(members))
