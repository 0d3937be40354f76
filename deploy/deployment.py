"""One deployment: workers as named Ray actors, started, changed while they run, and stopped."""

import contextlib
import secrets
import threading
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import ray
from ray.exceptions import RayError

from common.config import ServeConfig, WorkerSpec
from common.machine import read_cores, read_memory
from common.messages import Role
from common.telemetry.log_files import default_log_dir, new_log_name
from deploy.death_watch import DeathWatch
from deploy.launched import Launched
from deploy.launcher import Launcher
from deploy.placement import Share, share_cores, share_free_cores
from deploy.ray_session import start_ray, stop_ray
from deploy.starting import LoggedReport, StartReport
from pdserve.errors import PreconditionError

_STOP_TIMEOUT_S = 10.0
_FLIP_TIMEOUT_S = 40.0  # longer than the worker's own timeout


class Deployment:
    """Owner of the Ray session and the worker actors.

    `stop` is safe at any moment and leaves nothing behind. A worker's name is its first role and a
    unique number; it does not change when the worker flips.
    """

    def __init__(self, config: ServeConfig, model_name: str, model_dir: Path) -> None:
        self._config = config
        self._model_name = model_name
        self._model_dir = model_dir
        self._workers: dict[str, Launched] = {}
        self._watch = DeathWatch()
        self._numbers = {role: count() for role in Role}
        self._shares: list[Share] = []
        self.cluster_token = secrets.token_urlsafe(32)  # workers demand it from routers
        self._is_private = True
        self._is_aborted = threading.Event()
        self._changing = threading.Lock()

    def start(self, report: StartReport) -> list[str]:
        """Start Ray and all workers; return their gRPC addresses. Raises SetupError.

        `report` is told what the start is waiting for, and how long each stage took.
        """
        config = self._config
        roles = [Role.PREFILL] * config.prefill + [Role.DECODE] * config.decode
        self._shares = share_cores(len(roles), read_cores(), config.pin)
        report.now("starting Ray")
        begun_s = time.monotonic()
        self._is_private = start_ray(config, sum(share.num_threads for share in self._shares))
        report.done(f"starting Ray took {time.monotonic() - begun_s:.1f} s")
        return list(self._launch(roles, self._shares, self._launcher(), report).values())

    def add(self, roles: Sequence[Role]) -> dict[str, str]:
        """Start more workers, all or none; return their addresses by name.

        Raises PreconditionError if there is no room for them, SetupError if one does not start.
        """
        with self._changing:
            launcher = self._launcher()
            if not self._is_private:
                launcher.check_cluster(roles)
                return self._launch(roles, [Share(0, ())] * len(roles), launcher, LoggedReport())
            used = {core for worker in self._workers.values() for core in worker.share.cores}
            free = [core for core in read_cores().mask if core not in used]
            shares = share_free_cores(len(roles), free, self._shares[0])
            return self._launch(roles, shares, launcher, LoggedReport())

    def flip(self, name: str, role: Role) -> None:
        """Give a worker another role. Raises PreconditionError, SetupError."""
        with self._changing:
            if name not in self._workers:
                raise PreconditionError(f"{name} is no worker of this deployment")
            self._launcher().flip(self._workers[name], role, _FLIP_TIMEOUT_S)

    def remove(self, name: str) -> None:
        """Stop one worker, if it belongs to this deployment."""
        with self._changing:
            worker = self._workers.pop(name, None)
            if worker is not None:
                self._watch.forget(name)
                _end([worker])

    def abort(self) -> None:
        """Make a `start` or a change that runs in another thread give up soon."""
        self._is_aborted.set()

    def stop(self) -> None:
        """Stop workers, then Ray.

        Never call it during `start`; call `abort` first to end a change.
        """
        with self._changing:
            self._watch.close()
            if ray.is_initialized():
                _end(list(self._workers.values()))
            self._workers.clear()
            stop_ray()

    def _launcher(self) -> Launcher:
        return Launcher(self._config, self._is_private, self._is_aborted)

    def _launch(
        self,
        roles: Sequence[Role],
        shares: Sequence[Share],
        launcher: Launcher,
        report: StartReport,
    ) -> dict[str, str]:
        launched: list[Launched] = []
        # divided before the start: workers that start together would all count the same free memory
        memory_bytes = read_memory().usable_bytes // len(roles) if self._is_private else None
        try:
            for role, share in zip(roles, shares, strict=True):
                launched.append(launcher.create(self._spec(role, share, memory_bytes), share))
            ready = launcher.await_starts(launched, report)
        except BaseException:
            _kill(launched)  # nobody uses them yet; one that is loading would not react to `stop`
            raise
        for one in ready:
            self._workers[one.worker.name] = one.worker
            self._watch.add(one.worker)
        return {one.worker.name: one.address for one in ready}

    def _spec(self, role: Role, share: Share, memory_bytes: int | None) -> WorkerSpec:
        config, name = self._config, f"{role}-{next(self._numbers[role])}"
        log_file = default_log_dir() / config.namespace / name / new_log_name()
        return WorkerSpec.model_validate(
            {
                "name": name,
                "role": str(role),
                "model_dir": self._model_dir,
                "model_name": self._model_name,
                "namespace": config.namespace,
                "bind_host": "127.0.0.1" if self._is_private else None,
                "num_threads": share.num_threads if self._is_private else 0,
                "cores": share.cores if self._is_private else (),
                "log_file": log_file if self._is_private else None,
                "memory_bytes": memory_bytes,
                "cluster_token": self.cluster_token,
                "engine": config.engine,
                "transfer": config.transfer,
            }
        )


def _end(workers: Sequence[Launched]) -> None:
    """Ask the workers to stop, wait a little, then kill those that still run."""
    with contextlib.suppress(RayError):
        stops = [worker.handle.stop.remote() for worker in workers]
        ray.wait(stops, num_returns=len(stops), timeout=_STOP_TIMEOUT_S) if stops else None
    _kill(workers)


def _kill(workers: Sequence[Launched]) -> None:
    for worker in workers:
        with contextlib.suppress(RayError):
            ray.kill(worker.handle)
