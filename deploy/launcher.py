"""Launcher of workers: from a worker's description to a Ray actor that serves."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Sequence

import ray
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import ActorAlreadyExistsError, RayError

from common.config import ServeConfig, WorkerSpec
from common.messages import Role
from deploy.actors import WorkerActor
from deploy.launched import Launched, result_of
from deploy.placement import Share
from deploy.starting import Ready, StartReport, await_starts
from pdserve.errors import PreconditionError, SetupError

_POLL_S = 0.5
_STOP_TIMEOUT_S = 10.0
_NAME_FREE_WITHIN_S, _NAME_POLL_S = 10.0, 0.1


class Launcher:
    """Creates actors and waits for them; each wait has a deadline and ends on `is_aborted`."""

    def __init__(self, config: ServeConfig, is_private: bool, is_aborted: threading.Event) -> None:
        self._config = config
        self._is_private = is_private
        self._is_aborted = is_aborted

    def create(self, spec: WorkerSpec, share: Share) -> Launched:
        """Return an actor that is not started yet. Raises SetupError if its name is taken."""
        # ray.remote turned the class into an ActorClass, which type checkers do not see
        actor_class: ActorClass = WorkerActor
        options = self._resources(Role(spec.role))
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

    def create_again(self, before: Launched, spec: WorkerSpec) -> Launched:
        """Return an actor in place of one that died; `spec` has its name. Raises SetupError."""
        kill([before])  # else Ray keeps the name for it
        deadline_s = time.monotonic() + _NAME_FREE_WITHIN_S
        while True:
            try:
                return self.create(spec, before.share)
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

    def check_cluster(self, roles: Sequence[Role]) -> None:
        """Raise PreconditionError unless the cluster has enough resources for these workers."""
        wanted: Counter[str] = Counter()
        for role in roles:
            wanted.update(self._cluster_needs(role))
        available = ray.available_resources()
        for name, amount in wanted.items():
            free = available.get(name, 0.0)
            if free < amount:
                raise PreconditionError(
                    f"{len(roles)} new workers need {amount} {name}, the cluster has {free:g} free"
                )

    def _resources(self, role: Role) -> dict[str, object]:
        if self._is_private:
            return {"num_cpus": 0}  # we assign the cores ourselves (placement.py)
        needs = self._cluster_needs(role)
        options: dict[str, object] = {"num_cpus": needs.pop("CPU"), "num_gpus": needs.pop("GPU", 0)}
        return options | {"resources": needs}

    def _cluster_needs(self, role: Role) -> dict[str, int]:
        """Return a worker's resources: CPU, the role's own if the cluster has it, GPU on cuda."""
        needs = {"CPU": 1}
        if role in ray.cluster_resources():
            needs[str(role)] = 1
        if self._config.engine.device == "cuda":
            needs["GPU"] = 1
        return needs


def kill(workers: Sequence[Launched]) -> None:
    """Kill the workers that still run; a process that does not react is ended after 5 s."""
    for worker in workers:
        with contextlib.suppress(RayError):
            if worker.handle is not None:  # None: it was never found
                ray.kill(worker.handle)


def end(workers: Sequence[Launched]) -> None:
    """Ask the workers to stop, wait a little, then kill those that still run."""
    with contextlib.suppress(RayError):
        stops = [worker.handle.stop.remote() for worker in workers if worker.handle is not None]
        ray.wait(stops, num_returns=len(stops), timeout=_STOP_TIMEOUT_S) if stops else None
    kill(workers)
