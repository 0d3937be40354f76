"""A prefill worker in a process of its own, and the pipes through which a decode worker pulls its KV.

1. The child has one model at a time. `begin` replaces its worker, `wait_begun` waits for the new one.
2. Each stream has a connection. Its reader asks for one item after another, so the child runs no further
   ahead than InProcessStream lets a source do.
3. A closed stream is cancelled through the child's first connection, as a Ray actor's is by a call.
4. The child ends with its first connection, at the latest when its parent ends.
"""

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Self

from common.config import EngineConfig
from common.kv_transfer.transport import TransferError
from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest
from tests.integration.support.in_process_workers import PREFILL
from tests.integration.support.prefill_child import Begin, Cancel, CheckAtRest, Order, serve
from tests.patience import WITHIN_S

_SLICE_S = 0.5  # before the next look for a close of the stream


class PrefillProcess:
    """KVTransport to the prefill worker of a child process; context manager of that process."""

    def __init__(self) -> None:
        # numba and torch have threads by now, so that a fork would not be safe
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name) / "kv")
        self._control, theirs = context.Pipe()
        self._sending = threading.Lock()
        self._process = context.Process(target=serve, args=(theirs, self._address), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.join(WITHIN_S)
        self._folder.cleanup()
        assert self._process.exitcode == 0

    def begin(self, model_dir: Path, config: EngineConfig) -> None:
        """Have the child build a worker for this model; `wait_begun` must follow."""
        self._send(Begin(model_dir, config))

    def wait_begun(self) -> None:
        """Wait until the worker runs."""
        self._wait_done()

    def check_at_rest(self) -> None:
        """Check that the child's worker holds no blocks, is consistent and has not crashed."""
        self._send(CheckAtRest())
        self._wait_done()

    def open(self, worker: str, request: WorkRequest) -> "PipeStream":
        """Run the prompt in the child (KVTransport.open)."""
        assert worker == PREFILL
        connection = Client(self._address, "AF_UNIX")
        connection.send(request)
        cancel = partial(self._send, Cancel(request.request_id, request.attempt))
        return PipeStream(connection, cancel)

    def _send(self, order: Order) -> None:
        with self._sending:
            self._control.send(order)

    def _wait_done(self) -> None:
        assert self._control.poll(WITHIN_S), "the prefill process does not answer"
        problem: str = self._control.recv()
        assert not problem, problem


class PipeStream:
    """Reads one stream of the child. One thread calls `next`, any thread `close`."""

    def __init__(self, connection: Connection, cancel: Callable[[], None]) -> None:
        self._connection = connection
        self._cancel = cancel
        self._is_closed = False

    def next(self, timeout_s: float) -> WireItem | None:
        """Return the next item, None at the end (KVStream.next)."""
        deadline = time.monotonic() + timeout_s + _SLICE_S
        try:
            self._connection.send(timeout_s)
            while not self._connection.poll(_SLICE_S):
                if self._is_closed:
                    return None
                if time.monotonic() > deadline:
                    raise TransferError(f"no KV for {timeout_s} s")
            item: WireItem | TransferError | None = self._connection.recv()
        except (EOFError, OSError) as error:
            raise TransferError("the prefill process is gone") from error
        if isinstance(item, TransferError):
            raise item
        return item

    def close(self) -> None:
        """End the stream and tell the child (KVStream.close)."""
        self._is_closed = True
        self._cancel()
