"""What happens inside a worker's process, whatever started it."""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import failpoints
from common.config import WorkerSpec
from common.engine.stages import BeginStage, StageClock, Stages
from common.machine import read_cores
from common.rpc.worker_host import WorkerHost
from common.telemetry.logs import configure_logs, get_logger
from deploy.role_switch import Builders, RoleSwitch
from deploy.worker_output import redirect_output

if TYPE_CHECKING:
    from common.worker.host import EngineHost

_STOP_TIMEOUT_S = 5.0

OnCrash = Callable[[BaseException], None]
BuildHost = Callable[[WorkerSpec, OnCrash, BeginStage], "EngineHost"]


@dataclass(frozen=True, slots=True)
class Home:
    """Where a worker's process is, for those who ask what became of it."""

    host: str
    pid: int
    log_file: str  # on that host; "": it has none


class WorkerProcess:
    """Pins, builds and serves one worker."""

    def __init__(self, spec: WorkerSpec, build_host: BuildHost, builders: Builders) -> None:
        self._spec = spec
        self._build_host = build_host
        self._builders = builders
        self._host: WorkerHost | None = None
        self._worker: RoleSwitch | None = None
        self._clock = StageClock()
        self._is_stopped = threading.Event()
        self.home = Home(spec.bind_host or "127.0.0.1", os.getpid(), self._redirect())
        configure_logs(process=spec.name)
        # before torch or numba are imported: their thread pools inherit both
        if spec.cores:
            os.sched_setaffinity(0, spec.cores)
        if not spec.num_threads:
            spec = spec.model_copy(update={"num_threads": read_cores().count})
        os.environ["OMP_NUM_THREADS"] = str(spec.num_threads)  # Ray's is its own count of CPUs
        self._spec = spec

    @property
    def worker(self) -> RoleSwitch:
        """The worker, once started."""
        if self._worker is None:
            raise RuntimeError("the worker is not started")
        return self._worker

    def start(self) -> str:
        """Load the model and serve; returns the gRPC address. Raises SetupError."""
        try:
            return self._start()
        except Exception as error:  # Ray takes it to the launcher; our log has where it came from
            get_logger().error("start_failed", stage=self.stages().running, exc_info=error)
            raise

    def _start(self) -> str:
        _abort_if_told(self._spec)
        spec = self._spec
        host = self._build_host(spec, _die, self._clock.stage)
        self._worker = RoleSwitch(spec, host, self._builders)
        self._worker.start()
        token = spec.cluster_token.get_secret_value()
        self._host = WorkerHost(self._worker, spec.bind_host or "127.0.0.1", token)
        address = self._host.start()
        seconds = {stage.name: round(stage.seconds, 3) for stage in self.stages().done}
        get_logger().info(
            "worker_ready", address=address, threads=spec.num_threads, stage_seconds=seconds
        )
        return address

    def stages(self) -> Stages:
        """How far the start has come; from any thread."""
        return self._clock.so_far()

    def wait_stopped(self) -> None:
        """Return once the worker was asked to stop."""
        self._is_stopped.wait()

    def stop(self) -> None:
        """Stop serving, then the engine."""
        self._is_stopped.set()
        if self._host is not None:
            self._host.stop(_STOP_TIMEOUT_S)
        if self._worker is not None:
            self._worker.stop(_STOP_TIMEOUT_S)

    def _redirect(self) -> str:
        """The file that this process's output goes to; where it cannot be made, output stays with Ray."""
        if self._spec.log_file is None:
            return ""
        try:
            redirect_output(self._spec.log_file)
        except OSError as error:
            print(f"no log file {self._spec.log_file}: {error}", file=sys.stderr)
            return ""
        return str(self._spec.log_file)


def _abort_if_told(spec: WorkerSpec) -> None:
    if failpoints.value("abort_at_start") in (spec.name, spec.role):
        print("LLVM ERROR: failpoint", file=sys.stderr, flush=True)
        os.abort()


def _die(error: BaseException) -> None:
    """A broken engine must not look alive: peers see the process's death at once."""
    # the message of a fault in the engine: numbers and names, no text is here
    get_logger().error("engine_crashed", error=repr(error), exc_info=error)
    os._exit(1)
