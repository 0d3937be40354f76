"""The supervisor as a named, detached Ray actor, one a deployment: it outlives routers.

Ray starts it again when its process dies. The new process finds what is wanted in Ray's key-value
store, and the workers by their names.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import ray

from common.config import ServeConfig
from common.messages import Role
from common.telemetry.logs import configure_logs
from deploy.internal_access import DeploymentAccess
from deploy.news import News
from deploy.owners import Owners
from deploy.placement import Share
from deploy.supervisor import Supervisor
from deploy.wanted_store import WantedStore
from deploy.worker_specs import WorkerSpecs

F = TypeVar("F", bound=Callable[..., object])
_LOOK_S = 0.1
SUPERVISOR = "supervisor"  # name of the actor in the deployment's namespace


def _control(method: F) -> F:
    grouped: F = ray.method(concurrency_group="control")(method)
    return grouped


def _news(method: F) -> F:
    grouped: F = ray.method(concurrency_group="news")(method)
    return grouped


@dataclass(frozen=True, slots=True)
class Facts:
    """A deployment as its routers must know it; `key` tells it from others of the same namespace."""

    config: ServeConfig
    model_name: str
    model_dir: Path
    access: DeploymentAccess
    key: str
    versions: Mapping[str, str]  # deploy.versions.read_versions, of the process that made it


@dataclass(frozen=True, slots=True)
class Progress:
    """Lines that a start has reported so far, and what it waits for."""

    done: tuple[str, ...] = ()
    now: str = ""


class _Recorded:
    """StartReport whose lines wait for those who ask."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._now = ""

    def now(self, text: str) -> None:
        self._now = text

    def done(self, text: str) -> None:
        self._done.append(text)

    def progress(self) -> Progress:
        return Progress(tuple(self._done), self._now)


@ray.remote(concurrency_groups={"news": 64, "control": 4})
class SupervisorActor:
    """Supervisor for callers in other processes. A change occupies the actor's own thread."""

    def __init__(self, facts: Facts, owner: str) -> None:
        configure_logs(process=SUPERVISOR)
        self._facts = facts
        self._report = _Recorded()
        specs = WorkerSpecs(facts.config, facts.model_name, facts.model_dir, facts.access.worker)
        self._supervisor = Supervisor(facts.config, specs, WantedStore(facts.key))
        self._owners = Owners()
        self._owning = threading.Lock()
        self.own(owner)
        self._supervisor.recover()

    def start(self, roles: Sequence[Role], shares: Sequence[Share]) -> None:
        """Run Supervisor.start."""
        self._supervisor.start(roles, shares, self._report)

    def add(self, roles: Sequence[Role]) -> dict[str, str]:
        """Run Supervisor.add."""
        return self._supervisor.add(roles)

    def flip(self, name: str, role: Role) -> None:
        """Run Supervisor.flip."""
        self._supervisor.flip(name, role)

    def remove(self, name: str) -> None:
        """Run Supervisor.remove."""
        self._supervisor.remove(name)

    def stop(self) -> None:
        """Run Supervisor.stop."""
        self._supervisor.stop()

    @_control
    def abort(self) -> None:
        """Run Supervisor.abort."""
        self._supervisor.abort()

    @_control
    def restart(self, name: str, address: str, reason: str) -> None:
        """Run Supervisor.restart."""
        self._supervisor.restart(name, address, reason)

    @_control
    def progress(self) -> Progress:
        """Return what the start has reported."""
        return self._report.progress()

    @_control
    def facts(self) -> Facts:
        """Return the deployment's settings."""
        return self._facts

    @_control
    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    @_control
    def own(self, owner: str) -> int:
        """Make a process an owner of the deployment; return how many others there are."""
        with self._owning:
            self._owners.hear(owner, time.monotonic())
            return self._owners.others(owner, time.monotonic())

    @_control
    def leave(self, owner: str) -> bool:
        """Forget an owner; return True if it must end the deployment. Waits for news of the others."""
        left_s = time.monotonic()
        with self._owning:
            self._owners.leave(owner)
        while True:
            with self._owning:
                must_end = self._owners.must_end(left_s, time.monotonic())
            if must_end is not None:
                return must_end
            time.sleep(_LOOK_S)

    @_news
    def await_news(self, owner: str, version: int, num_events: int, timeout_s: float) -> News:
        """Run Roster.await_news. A router that is no owner says ""."""
        if owner:
            self.own(owner)
        return self._supervisor.roster.await_news(version, num_events, timeout_s)
