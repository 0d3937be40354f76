"""Supervisor: the owner of the wanted workers, who starts them, and starts them again.

1. `start` and `add` make wanted workers, `remove` ends them. All of them serve, or none is added.
2. The watch reports a death. `WantedWorkers` says when the next process starts. A thread of its own
   starts it (Restarts), under the same name, with the same role and share of the machine.
3. Each change makes a new membership; `await_change` gives it to those who follow.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import ray
from ray.exceptions import RayError

from common.config import ServeConfig
from common.machine import read_cores, read_memory
from common.messages import Role
from common.telemetry.logs import get_logger
from deploy.death_watch import DeathWatch
from deploy.launched import Launched
from deploy.launcher import Launcher, kill
from deploy.placement import Share, share_free_cores
from deploy.restarts import Restarts
from deploy.starting import LoggedReport, NotReadyInTimeError, Ready, StartReport, UnreportedStart
from deploy.wanted import WantedWorkers
from deploy.worker_specs import WorkerSpecs
from pdserve.errors import PreconditionError
from router.workers.membership import Membership

_STOP_TIMEOUT_S = 10.0
_FLIP_TIMEOUT_S = 40.0  # longer than the worker's own timeout
_log = get_logger()


class Supervisor:
    """Starts, restarts and stops workers. Methods may be called from any thread."""

    def __init__(self, config: ServeConfig, specs: WorkerSpecs) -> None:
        self._specs = specs
        self._is_private = config.ray_address is None
        self._is_aborted = threading.Event()
        self._launcher = Launcher(config, self._is_private, self._is_aborted)
        self._shares: Sequence[Share] = ()  # of the first workers
        self._workers: dict[str, Launched] = {}  # the latest process of each wanted worker
        self._wanted = WantedWorkers()
        self._watch = DeathWatch(self._on_death)
        self._changing = threading.Lock()  # one change by hand at a time
        self._state = threading.Condition()  # guards _workers and _wanted; notified of each change
        self._restarts = Restarts(self._take_due, self._restart)

    def start(
        self, roles: Sequence[Role], shares: Sequence[Share], report: StartReport
    ) -> Membership:
        """Start the first workers. Raises SetupError."""
        self._shares = shares
        self._launch(roles, shares, report)
        self._restarts.start()
        return self.membership()

    def add(self, roles: Sequence[Role]) -> dict[str, str]:
        """Start more workers, all or none; return their addresses by name.

        Raises PreconditionError if there is no room for them, SetupError if one does not start.
        """
        with self._changing:
            if not self._is_private:
                self._launcher.check_cluster(roles)
                return self._launch(roles, [Share(0, ())] * len(roles), LoggedReport())
            used = {core for worker in self._workers.values() for core in worker.share.cores}
            free = [core for core in read_cores().mask if core not in used]
            shares = share_free_cores(len(roles), free, self._shares[0])
            return self._launch(roles, shares, LoggedReport())

    def flip(self, name: str, role: Role) -> None:
        """Give a worker another role. Raises PreconditionError, SetupError."""
        with self._changing:
            worker = self._serving(name)
            self._launcher.flip(worker, role, _FLIP_TIMEOUT_S)
            with self._state:
                spec = worker.spec.model_copy(update={"role": str(role)})
                self._workers[name] = replace(worker, spec=spec)

    def remove(self, name: str) -> None:
        """Stop one worker, if it belongs to this deployment; it is not started again."""
        with self._changing:
            with self._state:
                worker, serves = self._workers.pop(name, None), bool(self._wanted.address(name))
                self._wanted.remove(name)
                self._state.notify_all()
            if worker is not None:
                self._watch.forget(name)
                _end([worker]) if serves else kill([worker])

    def restart(self, name: str, address: str, reason: str) -> None:
        """Kill the process at `address` and start it again; nothing if it is gone already."""
        with self._state:
            worker = self._workers.get(name)
            if worker is None or self._wanted.address(name) != address:
                return
            self._watch.forget(name)
            self._on_death(worker)
        kill([worker])
        told = f"worker {name} was killed: it {reason}"
        _log.error("worker_died", worker=name, reason=told, log=worker.where_to_look())

    def membership(self) -> Membership:
        """Return the workers as of now."""
        with self._state:
            return self._wanted.membership()

    def await_change(self, version: int, timeout_s: float) -> Membership:
        """Return the membership as soon as it is newer than `version`, at the latest after `timeout_s`."""
        with self._state:
            self._state.wait_for(lambda: self._wanted.version > version, timeout_s)
            return self._wanted.membership()

    def abort(self) -> None:
        """Make starts and changes that run in other threads give up soon."""
        self._is_aborted.set()

    def stop(self) -> None:
        """Stop all workers. Never call it during `start`; call `abort` first to end a change."""
        with self._changing:
            self._is_aborted.set()
            self._restarts.close()
            self._watch.close()
            if ray.is_initialized():
                _end(list(self._workers.values()))
            self._workers.clear()

    def _launch(
        self, roles: Sequence[Role], shares: Sequence[Share], report: StartReport
    ) -> dict[str, str]:
        launched: list[Launched] = []
        # divided before the start: workers that start together would all count the same free memory
        memory_bytes = read_memory().usable_bytes // len(roles) if self._is_private else None
        try:
            for role, share in zip(roles, shares, strict=True):
                spec = self._specs.new(role, share, memory_bytes)
                launched.append(self._launcher.create(spec, share))
            ready = self._launcher.await_starts(launched, report)
        except BaseException:
            kill(launched)  # nobody uses them yet; one that is loading would not react to `stop`
            raise
        with self._state:
            for one in ready:
                self._workers[one.worker.name] = one.worker
                self._take_on(one)
        return {one.worker.name: one.address for one in ready}

    def _take_on(self, ready: Ready) -> bool:
        """Make a worker that has started one that serves; return False if it is not wanted any more."""
        name = ready.worker.name
        with self._state:
            known = self._workers.get(name)
            if known is None or known.handle is not ready.worker.handle:
                return False
            self._workers[name] = ready.worker  # its location is known now
            self._wanted.serves(name, ready.address, time.monotonic())
            self._watch.add(ready.worker)
            self._state.notify_all()
        return True

    def _serving(self, name: str) -> Launched:
        with self._state:
            if name not in self._wanted:
                raise PreconditionError(f"{name} is no worker of this deployment")
            if not self._wanted.address(name):
                raise PreconditionError(f"{name} is being restarted")
            return self._workers[name]

    def _on_death(self, worker: Launched) -> None:
        with self._state:
            known = self._workers.get(worker.name)
            if known is not None and known.handle is worker.handle:
                self._wanted.died(worker.name, time.monotonic())
                self._state.notify_all()
                self._restarts.wake()

    def _take_due(self, now_s: float) -> tuple[list[str], float | None]:
        with self._state:
            return self._wanted.take_due(now_s), self._wanted.next_due_s()

    def _restart(self, name: str) -> None:
        """Start a worker's next process. Runs in a thread of its own, and raises nothing."""
        begun_s, launched = time.monotonic(), None
        with self._state:
            before = self._workers.get(name)
        if before is None:  # removed meanwhile
            return
        try:
            launched = self._launcher.create_again(before, self._specs.again(before.spec))
            with self._state:
                if name not in self._wanted:
                    raise NotReadyInTimeError(f"{name} was removed")
                self._workers[name] = launched
            [ready] = self._launcher.await_starts([launched], UnreportedStart())
        except Exception as error:
            kill([launched] if launched else [])
            self._note_failure(name, error)
        else:
            if self._take_on(ready):
                seconds = round(time.monotonic() - begun_s, 1)
                _log.info("worker_back", worker=name, address=ready.address, start_s=seconds)

    def _note_failure(self, name: str, error: Exception) -> None:
        with self._state:
            if self._is_aborted.is_set() or name not in self._wanted:
                return
            again_in_s: float | None
            if isinstance(error, NotReadyInTimeError):
                again_in_s = self._wanted.was_late(name, time.monotonic())
            else:
                again_in_s = self._wanted.failed_start(name, time.monotonic(), str(error))
            self._state.notify_all()
        self._restarts.wake()
        if again_in_s is None:
            remedy = "`pdserve scale` starts another in its place"
            _log.error("worker_retired", worker=name, reason=str(error), remedy=remedy)
        else:
            _log.error("restart_failed", worker=name, error=str(error), again_in_s=again_in_s)


def _end(workers: Sequence[Launched]) -> None:
    """Ask the workers to stop, wait a little, then kill those that still run."""
    with contextlib.suppress(RayError):
        stops = [worker.handle.stop.remote() for worker in workers]
        ray.wait(stops, num_returns=len(stops), timeout=_STOP_TIMEOUT_S) if stops else None
    kill(workers)
