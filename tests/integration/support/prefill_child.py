"""Process of prefill_process.py: one prefill worker at a time, and a connection for each of its streams."""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from common.config import EngineConfig, TransferConfig, WorkerSpec
from common.engine.build import BUILD_TIMEOUT_S, build_engine
from common.kv_transfer.in_process import InProcessStream, InProcessTransport
from common.kv_transfer.transport import TransferError
from common.kv_transfer.wire import WireItem
from common.worker.host import EngineHost
from common.worker.loop import EngineLoop
from prefill_worker.worker import PrefillWorker, make_prefill_worker
from tests.integration.support.in_process_workers import (
    PREFILL,
    held,
    in_engine,
    until,
)
from tests.integration.support.worker_spec import worker_spec
from tests.patience import WITHIN_S

PATIENT = TransferConfig(item_timeout_s=WITHIN_S)
_BACKLOG = 16


@dataclass(frozen=True)
class Begin:
    """Order to replace the worker by one for this model."""

    model_dir: Path
    config: EngineConfig


@dataclass(frozen=True)
class Cancel:
    """Order to cancel a run of a prompt; it has no answer."""

    request_id: str
    attempt: int


@dataclass(frozen=True)
class CheckAtRest:
    """Order to check that the worker holds no blocks, is consistent and has not crashed."""


Order = Begin | Cancel | CheckAtRest


def unmeasured_host(spec: WorkerSpec, on_crash: Callable[[BaseException], None]) -> EngineHost:
    """Build an engine in its thread, with guesses instead of a measured profile."""
    loop = EngineLoop(spec.name, on_crash)
    build = partial(build_engine, spec.model_dir, spec.engine, spec.num_threads)
    return EngineHost(loop, loop.call(build, BUILD_TIMEOUT_S))


class _Child:
    """Owner of the child's worker. Only the thread of the first connection replaces it."""

    def __init__(self) -> None:
        self._crashes: list[BaseException] = []
        self._worker: PrefillWorker | None = None
        self._transport = InProcessTransport({})

    def carry_out(self, order: Begin | CheckAtRest) -> str:
        """Return what went wrong; an empty text if nothing did."""
        try:
            if isinstance(order, Begin):
                self._begin(order)
            else:
                self._check_at_rest()
        except Exception as error:  # its place is the test
            return repr(error)
        return ""

    def cancel(self, order: Cancel) -> None:
        if self._worker is not None:
            self._worker.source.cancel_stream(order.request_id, order.attempt)

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.shell.stop(WITHIN_S)

    def accept(self, listener: Listener) -> None:
        """Serve each stream in a thread of its own."""
        while True:
            threading.Thread(target=self._stream, args=(listener.accept(),), daemon=True).start()

    def _begin(self, order: Begin) -> None:
        self.stop()
        spec = worker_spec(PREFILL, "prefill", order.model_dir, order.config, PATIENT)
        self._worker = make_prefill_worker(spec, unmeasured_host(spec, self._crashes.append))
        self._transport = InProcessTransport({PREFILL: self._worker.source})
        self._worker.shell.start()

    def _check_at_rest(self) -> None:
        assert self._worker is not None
        shell = self._worker.shell
        until(lambda: held(shell) == 0, "free of blocks")
        in_engine(shell, shell._engine.check_integrity)
        assert not self._crashes, self._crashes

    def _stream(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError):  # its reader has gone
            stream = self._transport.open(PREFILL, connection.recv())
            while True:
                connection.send(_next(stream, connection.recv()))


def _next(stream: InProcessStream, timeout_s: float) -> WireItem | TransferError | None:
    try:
        return stream.next(timeout_s)
    except TransferError as error:
        return error


def serve(control: Connection, address: str) -> None:
    """Carry out the orders of `control` until the other side closes it; open streams at `address`."""
    child = _Child()
    listener = Listener(address, "AF_UNIX", _BACKLOG)
    threading.Thread(target=child.accept, args=(listener,), daemon=True).start()
    with contextlib.suppress(EOFError):
        while True:
            order: Order = control.recv()
            if isinstance(order, Cancel):
                child.cancel(order)
            else:
                control.send(child.carry_out(order))
    child.stop()
    os._exit(0)  # the modules' own end takes seconds and frees what the process gives back anyway
