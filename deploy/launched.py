"""A worker that was launched, and how to find out what became of it."""

from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from common.config import ServeConfig, WorkerSpec
from common.telemetry.log_files import tail
from deploy.placement import Share
from deploy.post_mortem import (
    Death,
    diagnose,
    diagnose_without_log,
    is_of_node,
    num_oom_kills,
    remedy_for,
)
from deploy.worker_process import Home
from pdserve.errors import SetupError, WorkerDiedError

_NUM_LINES, _NUM_BYTES = 1000, 2**17
_GET_TIMEOUT_S = 5.0  # of what is there already
_READ_TIMEOUT_S = 15.0  # a process begins for it on the other node
_OWN_NAMESPACE = ServeConfig.model_fields["namespace"].default


@dataclass(frozen=True, slots=True)
class Launched:
    """A worker's actor, what it was given of this machine, and where it runs."""

    spec: WorkerSpec
    handle: ActorHandle
    share: Share
    home: Home | None = None  # until it has answered
    oom_kills: int = field(default_factory=num_oom_kills)  # of this machine, when it was launched

    @property
    def name(self) -> str:
        """Unique in the deployment."""
        return self.spec.name

    @property
    def _is_here(self) -> bool:
        """Whether it runs on this machine; on a cluster its node chooses where its log lies."""
        return self.spec.log_file is not None

    def examine(self, error: RayError) -> Death:
        """Why it died, after Ray has said that it did. Takes seconds where its node is another one."""
        if isinstance(error, RayActorError) and error.actor_init_failed:
            last_line = str(error).strip().splitlines()[-1]
            return Death("its process did not begin", last_line, remedy_for(last_line))
        has_run_out = self._is_here and num_oom_kills() > self.oom_kills
        lines = None if is_of_node(str(error)) else self._last_lines()
        if lines is None:
            return diagnose_without_log(str(error))
        return diagnose(lines, str(error), has_run_out)

    def where_to_look(self) -> str:
        """Where its log is, for people."""
        home = self.home
        if home is not None and not home.log_file:
            return "the logs of its node's Ray"
        if not self._is_here:
            return f"{home.log_file} on {home.host}" if home else "the logs of its node's Ray"
        namespace = self.spec.namespace
        flag = f" --namespace {namespace}" if namespace != _OWN_NAMESPACE else ""
        return f"`pdserve logs {self.name}{flag}`"

    def _last_lines(self) -> list[str] | None:
        """None: there is no log, or nobody can be asked for it."""
        if self.spec.log_file is not None:
            return _read_tail(self.spec.log_file)
        return _ask_for_tail(self.home) if self.home and self.home.log_file else None


def result_of(ref: "ray.ObjectRef[object]", worker: Launched, doing: str) -> object:
    """What a worker's call came to, once it is over; `doing` says what the worker did, as "loading weights".

    Raises WorkerDiedError when the worker died meanwhile, SetupError for whatever the call raised.
    """
    who = f"worker {worker.name}"
    try:
        return ray.get(ref, timeout=_GET_TIMEOUT_S)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, SetupError):
            raise cause from None
        remedy = _remedy(remedy_for(repr(cause)), worker)
        raise SetupError(f"{who} failed while {doing}: {cause!r}", remedy) from error
    except GetTimeoutError as error:
        raise SetupError(f"{who}: Ray did not deliver what it answered after {doing}") from error
    except RayError as error:
        death = worker.examine(error)
        raise WorkerDiedError(death.told_of(who, doing), _remedy(death.remedy, worker)) from error


def _remedy(known: str, worker: Launched) -> str:
    looking = f"see {worker.where_to_look()}"
    return f"{known}; {looking}" if known else looking


def _read_tail(path: Path) -> list[str] | None:
    try:
        return tail(path, _NUM_LINES, _NUM_BYTES).lines
    except OSError:  # it did not come to write, or somebody removed it
        return None


def _ask_for_tail(home: Home) -> list[str] | None:
    """Read it on its own node, if that still lives."""
    read = ray.remote(num_cpus=0, resources={f"node:{home.host}": 0.001})(_read_tail)
    asked = read.remote(Path(home.log_file))
    try:
        lines: list[str] | None = ray.get(asked, timeout=_READ_TIMEOUT_S)
    except RayError:
        ray.cancel(asked)
        return None
    return lines
