"""A process's way to the supervisor. Every call has a deadline.

While the supervisor's process is being started again, calls fail with PreconditionError; what is wanted
and the workers stay as they are.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from common.config import ServeConfig
from common.messages import Role
from deploy.news import News
from deploy.supervisor_actor import SUPERVISOR, Facts, Progress
from pdserve.errors import PdserveError, PreconditionError
from router.workers.membership import Membership

_ANSWER_WITHIN_S = 15.0
_AGAIN_S = 0.5
_OTHERS_WITHIN_S = 10.0
CHANGE_WITHIN_S = 60.0  # beyond what the change itself may take


class SupervisorAwayError(PreconditionError):
    """The supervisor did not answer; a call that it did not answer may still take effect."""


class RemoteSupervisor:
    """Calls of one process to the actor, as `owner` of the deployment or, with "", as a router."""

    def __init__(self, handle: ActorHandle, config: ServeConfig, owner: str = "") -> None:
        self.handle = handle
        self._owner = owner
        self._within_s = config.start_timeout_s + config.cluster.waits_s

    @property
    def start_within_s(self) -> float:
        """Longest time that `add` may take, in seconds."""
        return self._within_s + CHANGE_WITHIN_S

    def add(self, roles: Sequence[Role]) -> dict[str, str]:
        """Run Supervisor.add. Raises PreconditionError, SetupError."""
        added: dict[str, str] = result_of_call(self.handle.add.remote(roles), self.start_within_s)
        return added

    def flip(self, name: str, role: Role) -> None:
        """Run Supervisor.flip. Raises PreconditionError, SetupError."""
        result_of_call(self.handle.flip.remote(name, role), CHANGE_WITHIN_S)

    def remove(self, name: str) -> None:
        """Run Supervisor.remove. Raises PreconditionError."""
        _insist(lambda: self.handle.remove.remote(name), CHANGE_WITHIN_S)

    def restart(self, name: str, address: str, reason: str) -> None:
        """Run Supervisor.restart. Raises PreconditionError."""
        result_of_call(self.handle.restart.remote(name, address, reason), _ANSWER_WITHIN_S)

    def stop(self, within_s: float) -> None:
        """Run Supervisor.stop. Raises PreconditionError."""
        _insist(self.handle.stop.remote, within_s)

    def facts(self) -> Facts:
        """Return the deployment's settings. Raises PreconditionError."""
        facts: Facts = result_of_call(self.handle.facts.remote(), _ANSWER_WITHIN_S)
        return facts

    def own(self) -> int:
        """Become an owner of the deployment; return how many others it has. Raises PreconditionError."""
        return int(result_of_call(self.handle.own.remote(self._owner), _ANSWER_WITHIN_S))

    def leave(self, within_s: float) -> bool:
        """Run SupervisorActor.leave. Raises PreconditionError."""
        return bool(_insist(lambda: self.handle.leave.remote(self._owner), within_s))

    def await_news(self, version: int, num_events: int, timeout_s: float) -> News:
        """Run Roster.await_news. Raises PreconditionError."""
        asked = self.handle.await_news.remote(self._owner, version, num_events, timeout_s)
        news: News = result_of_call(asked, timeout_s + _ANSWER_WITHIN_S)
        return news

    def await_serving(self, is_aborted: threading.Event | None = None) -> Membership:
        """Return the membership once each worker serves or is retired. Raises PreconditionError.

        Where some serve, the others are waited for only `_OTHERS_WITHIN_S`: they may have no node.
        """
        begun_s, news = time.monotonic(), self.await_news(-1, -1, 0.0)
        while True:
            members = news.membership.members
            starting = [m.name for m in members if not (m.address or m.retired)]
            if members and not starting:
                return news.membership
            waited_s = time.monotonic() - begun_s
            if waited_s > _OTHERS_WITHIN_S and any(member.address for member in members):
                return news.membership
            if waited_s > self._within_s or (is_aborted is not None and is_aborted.is_set()):
                who = starting[0] if starting else "no worker"
                raise PreconditionError(f"{who} was not ready in {self._within_s:g} s")
            news = self.await_news(news.membership.version, news.num_events, 1.0)


def result_of_call(asked: "ray.ObjectRef[Any]", within_s: float) -> Any:  # Ray has no types
    """Return what the actor answers. Raises its own PdserveError, PreconditionError if there is none."""
    try:
        return ray.get(asked, timeout=within_s)
    except RayTaskError as error:
        if isinstance(error.cause, PdserveError):
            raise error.cause from None
        raise
    except GetTimeoutError as error:
        raise SupervisorAwayError(f"the supervisor did not answer in {within_s:g} s") from error
    except RayError as error:
        has_begun = not getattr(error, "actor_init_failed", False)
        why = type(error).__name__ if has_begun else str(error).strip().splitlines()[-1]
        raise SupervisorAwayError(f"the supervisor is gone: {why}") from error


def _insist(call: Callable[[], "ray.ObjectRef[Any]"], within_s: float) -> Any:
    """Make a call that may be repeated, again while the supervisor is being started again."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            return result_of_call(call(), max(deadline_s - time.monotonic(), _AGAIN_S))
        except SupervisorAwayError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(_AGAIN_S)


def progress_of(asked: "ray.ObjectRef[Progress]") -> Progress:
    """Return an answer that is there; nothing if there is none, since it only serves a display."""
    try:
        progress: Progress = ray.get(asked, timeout=_ANSWER_WITHIN_S)
    except RayError:
        return Progress()
    return progress


def find_supervisor(namespace: str) -> ActorHandle | None:
    """Return the actor of a namespace's deployment; None if there is none."""
    try:
        return ray.get_actor(SUPERVISOR, namespace)
    except (RayError, ValueError):
        return None
