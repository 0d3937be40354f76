"""Life of a worker inside its process, whatever started the process."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    """Location of a worker's process, for the diagnosis of its death."""

    host: str
    pid: int
    log_file: str  # on that host; "" if there is none
    node_id: str = ""  # Ray's name of the node
    versions: Mapping[str, str] = field(default_factory=dict)  # deploy.versions.read_versions


class WorkerProcess:
    """Pins, builds and serves one worker."""

    def __init__(self, spec: WorkerSpec, build_host: BuildHost, builders: Builders) -> None:
        self._spec = spec
        self._build_host = build_host
        self._builders = builders
        self._host: WorkerHost | None = None
        self._worker: RoleSwitch | None = None
        self.address = ""  # of the gRPC server, once it serves
        self._clock = StageClock()
        self._is_stopped = threading.Event()
        self.home = Home(spec.bind_host or "127.0.0.1", os.getpid(), self._redirect())
        configure_logs(process=spec.name)
        # before torch or numba start threads, which inherit the cores. Both are told the number once more
        # when the engine is built: a copy of the template has imported torch already.
        if spec.cores:
            os.sched_setaffinity(0, spec.cores)
        if not spec.num_threads:
            spec = spec.model_copy(update={"num_threads": read_cores().count})
        os.environ["OMP_NUM_THREADS"] = str(spec.num_threads)  # replaces Ray's count of CPUs
        self._spec = spec

    @property
    def worker(self) -> RoleSwitch:
        """The worker; exists only after `start`."""
        if self._worker is None:
            raise RuntimeError("the worker is not started")
        return self._worker

    def start(self) -> str:
        """Load the model and serve; return the gRPC address. Raises SetupError."""
        # a start makes many objects that stay, and collecting garbage among them takes a tenth of it
        gc.disable()
        try:
            return self._start()
        except Exception as error:  # Ray passes on the message; our log has the traceback
            get_logger().error("start_failed", stage=self.stages().running, exc_info=error)
            raise
        finally:
            # once, where the first collections would all walk through them; no later one does
            gc.collect()
            gc.freeze()
            gc.enable()

    def _start(self) -> str:
        failpoints.check()
        _abort_if_told(self._spec)
        spec = self._spec
        host = self._build_host(spec, _die, self._clock.stage)
        self._worker = RoleSwitch(spec, host, self._builders)
        self._worker.start()
        self._host = WorkerHost(self._worker, spec.bind_host or "127.0.0.1", spec.access)
        address = self._host.start()
        seconds = {stage.name: round(stage.seconds, 3) for stage in self.stages().done}
        get_logger().info(
            "worker_ready",
            address=address,
            threads=spec.num_threads,
            gpus=spec.gpu_ids,
            stage_seconds=seconds,
        )
        self.address = address
        return address

    def stages(self) -> Stages:
        """Return the progress of the start; callable from any thread."""
        return self._clock.so_far()

    def wait_stopped(self) -> None:
        """Return after the worker was asked to stop."""
        self._is_stopped.wait()

    def stop(self) -> None:
        """Stop serving, then stop the engine."""
        self._is_stopped.set()
        if self._host is not None:
            self._host.stop(_STOP_TIMEOUT_S)
        if self._worker is not None:
            self._worker.stop(_STOP_TIMEOUT_S)

    def _redirect(self) -> str:
        """Redirect output to a file and return its path; "" if Ray keeps the output."""
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
    """End the process after a fault in the engine, so that peers see the failure at once."""
    # the message of an engine fault has numbers and names, never text of a request
    get_logger().error("engine_crashed", error=repr(error), exc_info=error)
    os._exit(1)
