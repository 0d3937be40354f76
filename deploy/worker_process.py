"""What happens inside a worker's process, whatever started it."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.config import WorkerSpec
from common.machine import read_cores
from common.rpc.worker_host import WorkerHost
from common.telemetry.logs import configure_logs, get_logger
from deploy.role_switch import Builders, RoleSwitch

if TYPE_CHECKING:
    from common.engine.host import EngineHost

_STOP_TIMEOUT_S = 5.0

OnCrash = Callable[[BaseException], None]
BuildHost = Callable[[WorkerSpec, OnCrash], "EngineHost"]


class WorkerProcess:
    """Pins, builds and serves one worker."""

    def __init__(self, spec: WorkerSpec, build_host: BuildHost, builders: Builders) -> None:
        self._build_host = build_host
        self._builders = builders
        self._host: WorkerHost | None = None
        self._worker: RoleSwitch | None = None
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
        spec = self._spec
        self._worker = RoleSwitch(spec, self._build_host(spec, _die), self._builders)
        self._worker.start()
        token = spec.cluster_token.get_secret_value()
        self._host = WorkerHost(self._worker, spec.bind_host or "127.0.0.1", token)
        address = self._host.start()
        get_logger().info("worker_ready", address=address, threads=spec.num_threads)
        return address

    def stop(self) -> None:
        """Stop serving, then the engine."""
        if self._host is not None:
            self._host.stop(_STOP_TIMEOUT_S)
        if self._worker is not None:
            self._worker.stop(_STOP_TIMEOUT_S)


def _die(error: BaseException) -> None:
    """A broken engine must not look alive: peers see the process's death at once."""
    # the message of a fault in the engine: numbers and names, no text is here
    get_logger().error("engine_crashed", error=repr(error), exc_info=error)
    os._exit(1)
