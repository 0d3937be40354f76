"""What happens inside a worker's process, whatever started it."""

import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from common.config import WorkerSpec
from common.rpc.worker_host import WorkerHost
from common.rpc.worker_service import WorkerPort
from common.telemetry.logs import configure_logs, get_logger

_STOP_TIMEOUT_S = 5.0


class Startable(WorkerPort, Protocol):
    """A worker's life cycle."""

    def start(self) -> None:
        """Start the engine."""

    def stop(self, timeout_s: float) -> bool:
        """Stop it; whether it stopped in time."""


WorkerT = TypeVar("WorkerT", bound=Startable)
OnCrash = Callable[[BaseException], None]


class WorkerProcess(Generic[WorkerT]):
    """Pins, builds and serves one worker."""

    def __init__(self, spec: WorkerSpec, build: Callable[[WorkerSpec, OnCrash], WorkerT]) -> None:
        self._spec = spec
        self._build = build
        self._host: WorkerHost | None = None
        self._worker: WorkerT | None = None
        configure_logs(process=spec.name)
        if spec.cores:
            # before torch or numba are imported: their thread pools inherit it
            os.sched_setaffinity(0, spec.cores)

    @property
    def worker(self) -> WorkerT:
        """The worker, once started."""
        if self._worker is None:
            raise RuntimeError("the worker is not started")
        return self._worker

    def start(self) -> str:
        """Load the model and serve; returns the gRPC address. Raises SetupError."""
        spec = self._spec
        if not spec.num_threads:
            spec = spec.model_copy(update={"num_threads": len(os.sched_getaffinity(0))})
        self._worker = self._build(spec, _die)
        self._worker.start()
        self._host = WorkerHost(self._worker, spec.bind_host or "127.0.0.1")
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
    get_logger().error("engine_crashed", exc_info=error)
    os._exit(1)
