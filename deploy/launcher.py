"""Launcher of workers: from a worker's description to a Ray actor that serves."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import ActorAlreadyExistsError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.config import ServeConfig, WorkerSpec
from common.messages import Role
from deploy.actors import WorkerActor
from deploy.cluster_room import ClusterRoom
from deploy.launched import Launched, result_of
from deploy.placement import Share
from deploy.starting import Ready, StartReport, UnreportedStart, await_starts
from pdserve.errors import SetupError

_POLL_S = 0.5
_STOP_TIMEOUT_S = 10.0
_NAME_FREE_WITHIN_S, _NAME_POLL_S = 10.0, 0.1
_TITLE = b"ray::WorkerActor"  # that Ray gives a worker's process


class Launcher:
    """Creates actors and waits for them; each wait has a deadline and ends on `is_aborted`."""

    def __init__(self, config: ServeConfig, is_private: bool, is_aborted: threading.Event) -> None:
        self._config = config
        self._is_private = is_private
        self._is_aborted = is_aborted
        self._room = ClusterRoom(config, is_aborted)

    def find_places(
        self, roles: Sequence[Role], there: Sequence[Launched], report: StartReport
    ) -> list[str]:
        """Return the id of a node for each worker, as ClusterRoom.find. Raises NoRoomError."""
        return self._room.find(roles, there, report)

    def create(self, spec: WorkerSpec, share: Share, node_id: str) -> Launched:
        """Return an actor that is not started yet. Raises SetupError if its name is taken."""
        # ray.remote turned the class into an ActorClass, which type checkers do not see
        actor_class: ActorClass = WorkerActor
        needs = self._room.needs()
        spec = spec.model_copy(update={"gpu_share": needs.gpus})
        options = self._resources(needs.of(Role(spec.role)), node_id)
        try:
            handle: ActorHandle = actor_class.options(
                name=spec.name,
                namespace=spec.namespace,
                lifetime="detached",
                max_restarts=0,
                **options,
            ).remote(spec)
        except (ValueError, ActorAlreadyExistsError) as error:  # the second error comes from ray://
            raise SetupError(
                f"Ray already has a worker named {spec.name} in namespace '{spec.namespace}'",
                "choose another namespace",
            ) from error
        return Launched(spec, handle, share)

    def create_again(
        self, before: Launched, spec: WorkerSpec, others: Sequence[Launched]
    ) -> Launched:
        """Return an actor in place of one that died; `spec` has its name.

        Raises NoRoomError if no node has room for it beside the others, SetupError.
        """
        kill([before])  # else Ray keeps the name for it
        [node_id] = self.find_places([Role(spec.role)], others, UnreportedStart())
        deadline_s = time.monotonic() + _NAME_FREE_WITHIN_S
        while True:
            try:
                return self.create(spec, before.share, node_id)
            except SetupError:
                if time.monotonic() > deadline_s or self._is_aborted.wait(_NAME_POLL_S):
                    raise

    def await_starts(self, workers: Sequence[Launched], report: StartReport) -> list[Ready]:
        """Start the workers and wait until all serve; errors as in starting.await_starts."""
        return await_starts(workers, self._config.start_timeout_s, self._is_aborted, report)

    def flip(self, worker: Launched, role: Role, timeout_s: float) -> None:
        """Give a worker another role. Raises SetupError."""
        doing = f"becoming a {role} worker"
        flipped = worker.handle.flip.remote(role)
        deadline_s = time.monotonic() + timeout_s
        while not ray.wait([flipped], timeout=_POLL_S)[0]:
            if self._is_aborted.is_set():
                raise SetupError(f"worker {worker.name} was interrupted while {doing}")
            if time.monotonic() > deadline_s:
                raise SetupError(f"worker {worker.name} is still {doing} after {timeout_s} s")
        result_of(flipped, worker, doing)

    def _resources(self, needs: dict[str, float], node_id: str) -> dict[str, object]:
        options: dict[str, object] = {
            "num_cpus": needs.pop("CPU", 0),  # of this machine we assign the cores (placement.py)
            "num_gpus": needs.pop("GPU", 0),
            "resources": needs,
        }
        if not self._is_private:
            # soft: a node that is lost meanwhile is replaced by another one
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=True)
        return options


def kill(workers: Sequence[Launched]) -> None:
    """Kill the workers that still run; a process that does not react is ended after 5 s."""
    for worker in workers:
        with contextlib.suppress(RayError):
            if worker.handle is not None:  # None: it was never found
                ray.kill(worker.handle)


def kill_hung(worker: Launched) -> None:
    """Kill a worker that does not react. Ray gives it 5 s to end, in which it keeps its memory."""
    kill([worker])
    pid = worker.pid_here
    if pid is not None:
        with contextlib.suppress(OSError):  # it has ended
            # another process may have its number by now
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_TITLE):
                os.kill(pid, signal.SIGKILL)


def end(workers: Sequence[Launched]) -> None:
    """Ask the workers to stop, wait a little, then kill those that still run."""
    with contextlib.suppress(RayError):
        stops = [worker.handle.stop.remote() for worker in workers if worker.handle is not None]
        ray.wait(stops, num_returns=len(stops), timeout=_STOP_TIMEOUT_S) if stops else None
    kill(workers)
