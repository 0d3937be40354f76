"""One deployment, as the process that owns it sees it: a Ray session and the supervisor in it."""

import contextlib
import secrets
import threading
import time
from pathlib import Path

import ray
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import ActorAlreadyExistsError, RayError

from common.config import ServeConfig
from common.machine import read_cores
from common.messages import Role
from deploy.internal_access import new_access
from deploy.placement import Share, share_cores
from deploy.ray_session import kill_ray, lost_process, start_ray, stop_ray
from deploy.remote_supervisor import RemoteSupervisor, find_supervisor, progress_of, result_of_call
from deploy.starting import StartReport
from deploy.supervisor_actor import SUPERVISOR, Facts, SupervisorActor
from deploy.versions import check_router, read_versions
from pdserve.errors import PreconditionError, SetupError
from router.workers.membership import Membership

_POLL_S = 0.25
_STOP_WITHIN_S = 30.0
_LAST_QUESTION_S = 2.0
_HEAD = "node:__internal_head__"  # Ray's resource of the node without which nothing starts anyway


class Deployment:
    """Owner of the Ray session and of the deployment: both end with `stop`, which is safe at any moment.

    On a cluster it joins a deployment of its namespace that is there already, as one more owner. The
    deployment ends with the last of them.
    """

    def __init__(self, config: ServeConfig, model_name: str, model_dir: Path) -> None:
        """Prepare, and start nothing. Raises SetupError."""
        self._config = config
        self._owner = secrets.token_hex(8)
        key = f"{config.namespace}:{self._owner}"
        self.facts = Facts(config, model_name, model_dir, new_access(config), key, read_versions())
        self._supervisor: RemoteSupervisor | None = None
        self._is_aborted = threading.Event()
        self._is_starting = False  # it has made the deployment, whose workers do not serve yet

    @property
    def supervisor(self) -> RemoteSupervisor:
        """The supervisor, once started."""
        if self._supervisor is None:
            raise RuntimeError("the deployment has not started")
        return self._supervisor

    def start(self, report: StartReport) -> Membership:
        """Start Ray and all workers, or join those that are there; return them. Raises SetupError.

        `report` is told what the start is waiting for, and how long each stage took.
        """
        config = self._config
        roles = [Role.PREFILL] * config.prefill + [Role.DECODE] * config.decode
        shares = share_cores(len(roles), read_cores(), config.pin)
        report.now("starting Ray")
        begun_s = time.monotonic()
        start_ray(config, sum(share.num_threads for share in shares))
        report.done(f"starting Ray took {time.monotonic() - begun_s:.1f} s")
        found = find_supervisor(config.namespace) if config.ray_address is not None else None
        if self._is_aborted.is_set():
            raise SetupError("the start was interrupted")
        if found is None and (found := self._create()) is None:
            self._start_workers(roles, shares, report)
            self._is_starting = False
            return self.supervisor.await_serving(self._is_aborted)
        return self._join(found, report)

    def abort(self) -> None:
        """Make a `start` that runs in another thread give up soon."""
        self._is_aborted.set()
        if self._supervisor is not None and self._is_starting:
            self._supervisor.handle.abort.remote()

    def forget_workers(self) -> None:
        """Let `stop` leave the workers alone: Ray is gone, and ends them itself."""
        self._supervisor = None

    def stop(self) -> None:
        """Stop workers, then the supervisor, then Ray; where others own the workers, leave them.

        Never call it during `start`.
        """
        if lost_process():
            kill_ray()
            return
        if self._supervisor is not None and self._is_last(self._supervisor):
            self._stop_workers(self._supervisor)
        if ray.is_initialized():
            stop_ray()

    def _stop_workers(self, supervisor: RemoteSupervisor) -> None:
        """Stop workers and the supervisor; an error means that Ray is gone, and all with it."""
        with contextlib.suppress(RayError, PreconditionError):
            supervisor.handle.abort.remote()  # a change that runs
            # workers that still load react to nothing; those of a private Ray end with it
            if not (self._is_starting and self._config.ray_address is None):
                supervisor.stop(_STOP_WITHIN_S)
        with contextlib.suppress(RayError):
            ray.kill(supervisor.handle)

    def _is_last(self, supervisor: RemoteSupervisor) -> bool:
        """Leave the deployment; return True if it must end with this process."""
        if self._is_starting or self._config.ray_address is None:
            return True
        try:
            return supervisor.leave(_STOP_WITHIN_S)
        except PreconditionError:  # nothing can be stopped either
            return False

    def _create(self) -> ActorHandle | None:
        """Make the supervisor; return the one that another `pdserve serve` made at the same time."""
        # ray.remote turned the class into an ActorClass, which type checkers do not see
        actor_class: ActorClass = SupervisorActor
        namespace = self._config.namespace
        try:
            handle = actor_class.options(
                name=SUPERVISOR,
                namespace=namespace,
                lifetime="detached",
                max_restarts=-1,
                num_cpus=0,
                # an autoscaler takes nodes away on which no resource is used
                resources={_HEAD: 0.001},
            ).remote(self.facts, self._owner)
        except (ValueError, ActorAlreadyExistsError) as error:  # the second error comes from ray://
            if found := find_supervisor(namespace):
                return found
            raise SetupError(f"namespace '{namespace}' is taken: {error}") from error
        self._supervisor = RemoteSupervisor(handle, self._config, self._owner)
        self._is_starting = True
        return None

    def _start_workers(self, roles: list[Role], shares: list[Share], report: StartReport) -> None:
        """Have the workers started, and pass on what the start reports. Raises SetupError."""
        handle, num_done = self.supervisor.handle, 0
        started = handle.start.remote(roles, shares)
        report.now("starting the supervisor")
        waits_s = self._config.start_timeout_s + self._config.cluster.waits_s
        deadline_s = time.monotonic() + waits_s + _STOP_WITHIN_S
        has_ended = False
        while not has_ended and time.monotonic() < deadline_s:
            asked = handle.progress.remote()
            has_ended = bool(ray.wait([started], timeout=_POLL_S)[0])
            if ray.wait([asked], timeout=_LAST_QUESTION_S if has_ended else 0)[0]:
                progress = progress_of(asked)
                for line in progress.done[num_done:]:
                    report.done(line)
                num_done = len(progress.done)
                report.now(progress.now)
            if self._is_aborted.is_set():
                self._interrupt()
        try:
            result_of_call(started, _POLL_S)
        except PreconditionError as error:
            raise SetupError(error.message) from error

    def _interrupt(self) -> None:
        """Give up a start. Raises SetupError where nothing must be waited for."""
        if self._config.ray_address is None:
            raise SetupError("the start was interrupted")
        self.supervisor.handle.abort.remote()  # it may not have been there for the first one

    def _join(self, handle: ActorHandle, report: StartReport) -> Membership:
        """Become one more owner of a deployment, whose workers stay as they are. Raises SetupError."""
        namespace = self._config.namespace
        try:
            facts = RemoteSupervisor(handle, self._config).facts()
            check_router(facts.versions)
            if (
                facts.config.engine != self._config.engine
                or facts.model_dir != self.facts.model_dir
            ):
                raise SetupError(
                    f"namespace '{namespace}' has workers with another model or engine settings",
                    "choose another namespace, or serve it once with the old settings and end that",
                )
            found = RemoteSupervisor(handle, facts.config, self._owner)
            others = found.own()
            self.facts, self._supervisor = facts, found
            report.done(
                f"joined namespace '{namespace}' beside {others} other `pdserve serve`"
                if others
                else f"took over namespace '{namespace}', whose `pdserve serve` is gone"
            )
            return found.await_serving(self._is_aborted)
        except PreconditionError as error:
            raise SetupError(error.message, "choose another namespace") from error
