"""One deployment, as the process that owns it sees it: a Ray session and the supervisor in it."""

import contextlib
import secrets
import threading
import time
from pathlib import Path

import ray
from ray.actor import ActorClass
from ray.exceptions import ActorAlreadyExistsError, RayError

from common.config import ServeConfig
from common.machine import read_cores
from common.messages import Role
from deploy.internal_access import new_access
from deploy.placement import Share, share_cores
from deploy.ray_session import kill_ray, lost_process, start_ray, stop_ray
from deploy.remote_supervisor import RemoteSupervisor, find_supervisor, progress_of, result_of_call
from deploy.starting import StartReport
from deploy.supervisor_actor import OWNER_GONE_AFTER_S, SUPERVISOR, Facts, SupervisorActor
from pdserve.errors import PreconditionError, SetupError
from router.workers.membership import Membership

_POLL_S = 0.25
_STOP_WITHIN_S = 30.0
_OWNER_GONE_WITHIN_S = OWNER_GONE_AFTER_S + 5.0  # for one that was killed a moment ago
_LAST_QUESTION_S = 2.0


class Deployment:
    """Owner of the Ray session and of the deployment: both end with `stop`, which is safe at any moment.

    On a cluster it takes over a deployment of its namespace whose owner was killed.
    """

    def __init__(self, config: ServeConfig, model_name: str, model_dir: Path) -> None:
        """Prepare, and start nothing. Raises SetupError."""
        self._config = config
        self._owner = secrets.token_hex(8)
        key = f"{config.namespace}:{self._owner}"
        self.facts = Facts(config, model_name, model_dir, new_access(config), key)
        self._supervisor: RemoteSupervisor | None = None
        self._is_aborted = threading.Event()
        self._has_started = False

    @property
    def supervisor(self) -> RemoteSupervisor:
        """The supervisor, once started."""
        if self._supervisor is None:
            raise RuntimeError("the deployment has not started")
        return self._supervisor

    def start(self, report: StartReport) -> Membership:
        """Start Ray and all workers; return them. Raises SetupError.

        `report` is told what the start is waiting for, and how long each stage took.
        """
        config = self._config
        roles = [Role.PREFILL] * config.prefill + [Role.DECODE] * config.decode
        shares = share_cores(len(roles), read_cores(), config.pin)
        report.now("starting Ray")
        begun_s = time.monotonic()
        start_ray(config, sum(share.num_threads for share in shares))
        report.done(f"starting Ray took {time.monotonic() - begun_s:.1f} s")
        if config.ray_address is not None and (found := find_supervisor(config.namespace)):
            return self._take_over(RemoteSupervisor(found, config.start_timeout_s, self._owner))
        if self._is_aborted.is_set():
            raise SetupError("the start was interrupted")
        self._create()
        self._start_workers(roles, shares, report)
        self._has_started = True
        return self.supervisor.await_serving()

    def abort(self) -> None:
        """Make a `start` or a change that runs in another thread give up soon."""
        self._is_aborted.set()
        if self._supervisor is not None:
            self._supervisor.handle.abort.remote()

    def stop(self) -> None:
        """Stop workers, then the supervisor, then Ray.

        Never call it during `start`; call `abort` first to end a change.
        """
        if lost_process():
            kill_ray()
            return
        # workers that still load react to nothing; those of a private Ray end with it
        must_stop_workers = self._has_started or self._config.ray_address is not None
        if self._supervisor is not None and must_stop_workers:
            with contextlib.suppress(RayError, PreconditionError):  # Ray is gone, and all with it
                self._supervisor.stop(_STOP_WITHIN_S)
            with contextlib.suppress(RayError):
                ray.kill(self._supervisor.handle)
        if ray.is_initialized():
            stop_ray()

    def _create(self) -> None:
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
            ).remote(self.facts, self._owner)
        except (ValueError, ActorAlreadyExistsError) as error:  # the second error comes from ray://
            raise _taken(namespace) from error
        self._supervisor = RemoteSupervisor(handle, self._config.start_timeout_s, self._owner)

    def _start_workers(self, roles: list[Role], shares: list[Share], report: StartReport) -> None:
        """Have the workers started, and pass on what the start reports. Raises SetupError."""
        handle, num_done = self.supervisor.handle, 0
        started = handle.start.remote(roles, shares)
        report.now("starting the supervisor")
        deadline_s = time.monotonic() + self._config.start_timeout_s + _STOP_WITHIN_S
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

    def _take_over(self, found: RemoteSupervisor) -> Membership:
        """Become the owner of a deployment whose owner was killed. Raises SetupError."""
        namespace = self._config.namespace
        try:
            facts, deadline_s = found.facts(), time.monotonic() + _OWNER_GONE_WITHIN_S
            while not found.own():
                if time.monotonic() > deadline_s or self._is_aborted.wait(_POLL_S):
                    raise _taken(namespace)
            if (
                facts.config.engine != self._config.engine
                or facts.model_dir != self.facts.model_dir
            ):
                raise SetupError(
                    f"namespace '{namespace}' has workers with another model or engine settings",
                    "choose another namespace, or serve it once with the old settings and end that",
                )
            self.facts, self._supervisor = facts, found
            return found.await_serving()
        except PreconditionError as error:
            raise SetupError(error.message, "choose another namespace") from error


def _taken(namespace: str) -> SetupError:
    return SetupError(
        f"namespace '{namespace}' is served by another `pdserve serve`",
        "choose another namespace, or join it with `pdserve router`",
    )
