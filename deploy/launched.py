"""A launched worker, and the diagnosis of its death."""

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
_GET_TIMEOUT_S = 5.0  # for results that are ready
_READ_TIMEOUT_S = 15.0  # long enough to start a process on the other node
_OWN_NAMESPACE = ServeConfig.model_fields["namespace"].default


@dataclass(frozen=True, slots=True)
class Launched:
    """A worker's actor, its share of this machine, and its location."""

    spec: WorkerSpec
    handle: ActorHandle
    share: Share
    home: Home | None = None  # None until the process has answered
    oom_kills: int = field(default_factory=num_oom_kills)  # count of this machine at launch

    @property
    def name(self) -> str:
        """The name, unique in the deployment."""
        return self.spec.name

    @property
    def pid_here(self) -> int | None:
        """Process of a worker of this machine; None if it is elsewhere, or has never answered."""
        return self.home.pid if self.home and self._is_here else None

    @property
    def _is_here(self) -> bool:
        """True if the worker runs on this machine; in a cluster its node chooses the log file."""
        return self.spec.log_file is not None

    def examine(self, error: RayError) -> Death:
        """Return the cause of a death that Ray has reported; takes seconds on another node."""
        if isinstance(error, RayActorError) and error.actor_init_failed:
            last_line = str(error).strip().splitlines()[-1]
            return Death("its process did not begin", last_line, remedy_for(last_line))
        has_run_out = self._is_here and num_oom_kills() > self.oom_kills
        lines = None if is_of_node(str(error)) else self._last_lines()
        if lines is None:
            return diagnose_without_log(str(error))
        return diagnose(lines, str(error), has_run_out)

    def where_to_look(self) -> str:
        """Return the place of the log, for a message to the user."""
        home = self.home
        if home is not None and not home.log_file:
            return "the logs of its node's Ray"
        if not self._is_here:
            return f"{home.log_file} on {home.host}" if home else "the logs of its node's Ray"
        namespace = self.spec.namespace
        flag = f" --namespace {namespace}" if namespace != _OWN_NAMESPACE else ""
        return f"`pdserve logs {self.name}{flag}`"

    def _last_lines(self) -> list[str] | None:
        """Return the log's last lines; None if there is no log or it cannot be read."""
        if self.spec.log_file is not None:
            return _read_tail(self.spec.log_file)
        return _ask_for_tail(self.home) if self.home and self.home.log_file else None


def result_of(ref: "ray.ObjectRef[object]", worker: Launched, doing: str) -> object:
    """Return the result of a worker's finished call; `doing` names the work ("loading weights").

    Raises WorkerDiedError if the worker died meanwhile, SetupError for any error of the call.
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
    except OSError:  # the worker never wrote it, or somebody removed it
        return None


def _ask_for_tail(home: Home) -> list[str] | None:
    """Read the log on its own node, if that node still lives."""
    read = ray.remote(num_cpus=0, resources={f"node:{home.host}": 0.001})(_read_tail)
    asked = read.remote(Path(home.log_file))
    try:
        lines: list[str] | None = ray.get(asked, timeout=_READ_TIMEOUT_S)
    except RayError:
        ray.cancel(asked)
        return None
    return lines
