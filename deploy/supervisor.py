"""Supervisor: the owner of the wanted workers, who starts them, and starts them again.

1. `start` and `add` make wanted workers, `remove` ends them. All of them serve, or none is added.
2. The watch reports a death. The roster says when the next process starts. A thread of its own
   starts it (Restarts), under the same name, with the same role and share of the machine.
3. Each change makes a new membership; the roster gives it to those who wait for news.
4. What is wanted is stored after each change. `recover` finds the workers of an earlier supervisor.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from common.config import ServeConfig
from common.low_priority import StarvedError
from common.machine import read_cores, read_memory
from common.messages import Role
from deploy.death_watch import DeathWatch
from deploy.launched import Launched
from deploy.launcher import Launcher, end, kill, kill_hung
from deploy.news import make_event
from deploy.placement import Share, share_free_cores
from deploy.recovery import look_for
from deploy.restarts import Restarts
from deploy.roster import Roster
from deploy.starting import LoggedReport, NotReadyInTimeError, StartReport, UnreportedStart
from deploy.wanted_store import SavedState, WantedStore
from deploy.worker_specs import WorkerSpecs

_FLIP_TIMEOUT_S = 40.0  # longer than the worker's own timeout
_NUMBERS = 2**32  # versions and events of one process; those of the next are greater
_REMEDY = "`pdserve scale` starts another in its place"


class Supervisor:
    """Starts, restarts and stops workers. Methods may be called from any thread."""

    def __init__(self, config: ServeConfig, specs: WorkerSpecs, store: WantedStore) -> None:
        self._specs = specs
        self._store = store
        self._is_private = config.ray_address is None
        self._is_aborted = threading.Event()
        self._launcher = Launcher(config, self._is_private, self._is_aborted)
        self._saved = store.load()  # None, unless this process replaces one that died
        self._num_starts = self._saved.num_starts + 1 if self._saved else 0
        self.roster = Roster(self._num_starts * _NUMBERS)
        self._watch = DeathWatch(self._on_death, self.roster.tell)
        self._changing = threading.Lock()  # one change by hand at a time
        self._storing = threading.Lock()
        self._restarts = Restarts(self.roster.take_due, self._restart)

    def recover(self) -> None:
        """Take the workers of an earlier process of the supervisor over, if there was one."""
        saved = self._saved
        if saved is None:
            return
        self._specs.num_names.update(saved.num_names)
        for worker in saved.workers:
            spec = self._specs.named(worker.name, worker.role, worker.share, worker.memory_bytes)
            spec = spec.model_copy(update={"machine_workers": worker.machine_workers})
            found = look_for(spec, worker.share)
            if found.address:
                self.roster.add(found)
                self._watch.add(found.worker)
            else:
                self.roster.add_dead(found.worker, worker.retired)
        self._restarts.start()
        self._save()
        self.roster.tell(make_event("warning", "supervisor_back", workers=len(saved.workers)))

    def start(self, roles: Sequence[Role], shares: Sequence[Share], report: StartReport) -> None:
        """Start the first workers. Raises SetupError."""
        self._launch(roles, shares, report, is_gentle=False)
        self._restarts.start()

    def add(self, roles: Sequence[Role]) -> dict[str, str]:
        """Start more workers, all or none; return their addresses by name.

        Raises PreconditionError or NoRoomError if there is no room for them, SetupError if one does not
        start.
        """
        with self._changing:
            if not self._is_private:
                return self._launch_beside(roles, [Share(0, ())] * len(roles))
            there = [worker.share for worker in self.roster.processes()]
            used = {core for share in there for core in share.cores}
            free = [core for core in read_cores().mask if core not in used]
            like = max(there, key=lambda share: share.num_threads)
            return self._launch_beside(roles, share_free_cores(len(roles), free, like))

    def flip(self, name: str, role: Role) -> None:
        """Give a worker another role. Raises PreconditionError, SetupError."""
        with self._changing:
            worker = self.roster.serving(name)
            self._launcher.flip(worker, role, _FLIP_TIMEOUT_S)
            spec = worker.spec.model_copy(update={"role": str(role)})
            self.roster.change(replace(worker, spec=spec))
            self._save()

    def remove(self, name: str) -> None:
        """Stop one worker, if it belongs to this deployment; it is not started again."""
        with self._changing:
            self._watch.forget(name)
            worker, serves = self.roster.remove(name)
            self._save()
            if worker is not None:
                end([worker]) if serves else kill([worker])

    def restart(self, name: str, address: str, reason: str) -> None:
        """Kill the process at `address` and start it again; nothing if it is gone already."""
        worker = self.roster.at(name, address)
        if worker is None:
            return
        self._watch.forget(name)
        if self.roster.died(worker):
            kill_hung(worker)
            self._restarts.wake()
            told = f"worker {name} was killed: it {reason}"
            look = worker.where_to_look()
            self.roster.tell(make_event("error", "worker_died", worker=name, reason=told, log=look))

    def abort(self) -> None:
        """Make starts and changes that run in other threads give up soon."""
        self._is_aborted.set()

    def stop(self) -> None:
        """Stop all workers. Never call it during `start`; call `abort` first to end a change."""
        with self._changing:
            self._is_aborted.set()
            self._restarts.close()
            self._watch.close()
            end(self.roster.processes())
            self._store.delete()

    def _launch_beside(self, roles: Sequence[Role], shares: Sequence[Share]) -> dict[str, str]:
        """Start workers, gently beside others; once more at the usual priority, if those leave no core."""
        is_gentle = bool(self.roster.processes())
        try:
            return self._launch(roles, shares, LoggedReport(), is_gentle=is_gentle)
        except StarvedError:
            return self._launch(roles, shares, LoggedReport(), is_gentle=False)

    def _launch(
        self,
        roles: Sequence[Role],
        shares: Sequence[Share],
        report: StartReport,
        *,
        is_gentle: bool,
    ) -> dict[str, str]:
        launched: list[Launched] = []
        there = self.roster.processes()
        places = self._launcher.find_places(roles, there, report)
        # divided before the start: workers that start together would all count the same free memory
        memory_bytes = read_memory().usable_bytes // len(roles) if self._is_private else None
        try:
            for role, share, place in zip(roles, shares, places, strict=True):
                spec = self._specs.new(role, share, memory_bytes)
                num_workers = self._num_at(place) + places.count(place)
                changes = {"machine_workers": num_workers, "starts_beside_others": is_gentle}
                spec = spec.model_copy(update=changes)
                launched.append(self._launcher.create(spec, share, place))
            ready = self._launcher.await_starts(launched, report)
        except BaseException:
            kill(launched)  # nobody uses them yet; one that is loading would not react to `stop`
            raise
        for one in ready:
            self.roster.add(one)
            self._watch.add(one.worker)
        self._save()
        return {one.worker.name: one.address for one in ready}

    def _num_at(self, node_id: str) -> int:
        """Count the workers that run on a node."""
        homes = [worker.home for worker in self.roster.processes()]
        return sum(home is not None and home.node_id == node_id for home in homes)

    def _on_death(self, worker: Launched) -> None:
        if self.roster.died(worker):
            self._restarts.wake()

    def _restart(self, name: str) -> None:
        """Start a worker's next process. Runs in a thread of its own, and raises nothing."""
        begun_s, process = time.monotonic(), None
        before = self.roster.find(name)
        if before is None:  # removed meanwhile
            return
        try:
            others = [worker for worker in self.roster.processes() if worker.name != name]
            # at a low priority a busy machine may never get it ready
            spec = self._specs.again(before.spec, is_gentle=not self.roster.is_late(name))
            process = self._launcher.create_again(before, spec, others)
            if not self.roster.begins(process):
                raise NotReadyInTimeError(f"{name} was removed")
            [ready] = self._launcher.await_starts([process], UnreportedStart())
        except Exception as error:
            kill([process] if process else [])
            self._note_failure(name, error)
        else:
            if self.roster.serves(ready):
                self._watch.add(ready.worker)
                start_s = round(time.monotonic() - begun_s, 1)
                address = ready.address
                self.roster.tell(
                    make_event("info", "worker_back", worker=name, address=address, start_s=start_s)
                )

    def _note_failure(self, name: str, error: Exception) -> None:
        if self._is_aborted.is_set() or self.roster.find(name) is None:
            return
        again_in_s, why = self.roster.failed_start(name, error), str(error)
        if again_in_s is None:
            event = make_event("error", "worker_retired", worker=name, reason=why, remedy=_REMEDY)
            self._save()
        else:
            event = make_event(
                "error", "restart_failed", worker=name, error=why, again_in_s=again_in_s
            )
        self.roster.tell(event)
        self._restarts.wake()

    def _save(self) -> None:
        with self._storing:
            state = SavedState(
                workers=self.roster.saved(),
                num_names=self._specs.num_names,
                num_starts=self._num_starts,
            )
            self._store.save(state)
