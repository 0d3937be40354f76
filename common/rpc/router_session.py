"""A router at a worker: its requests and their outputs, which outlive a broken connection.

1. A connection attaches with the router's id. The first one of a router opens its session.
2. Outputs of its requests are kept, and go to the connection if there is one.
3. When the connection breaks, the requests run on, for a lease. A router that attaches again gets what
   it lacks. What it does not want any more is cancelled.
4. A request leaves with the router's cancel, or after its end, when the router has heard of that.
5. The session ends with the lease, or at once if the router leaves: all its requests are cancelled.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from common.messages import SequenceOutput, StepOutput, WorkFailure, WorkRequest
from common.rpc.kept_outputs import KeptOutputs
from common.rpc.worker_port import WorkerPort
from pdserve.errors import Reason
from pdserve.v1 import worker_pb2


class Listener(Protocol):
    """A connection, as its session sees it."""

    def put(self, step: StepOutput) -> None:
        """Send the outputs, behind those before, and a report of the load."""

    def close(self) -> None:
        """End the connection: a later one has taken its place."""


class RouterSession:
    """Owns what one router has submitted. Lives on the event loop of the worker's service."""

    def __init__(self, worker: WorkerPort, lease_s: float, on_end: Callable[[], None]) -> None:
        self.num_live = 0  # requests that have not ended
        self._worker = worker
        self._lease_s = lease_s
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, KeptOutputs] = {}
        self._listener: Listener | None = None
        self._stream_number = -1  # of the latest stream
        self._lease: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = worker.subscribe(self._hear)

    def attach(self, message: worker_pb2.Attach, listener: Listener) -> bool:
        """Serve this connection from now on; return False if a later one of the router was here."""
        if message.stream_number <= self._stream_number:
            return False
        self._stream_number = message.stream_number
        self._end_lease()
        if self._listener is not None:
            self._listener.close()
        self._listener = listener
        wanted = {work.request_id for work in message.wanted}
        for request_id in self._kept.keys() - wanted:
            self.cancel(request_id)
        for work in message.wanted:
            for output in self._missing(work):
                listener.put(StepOutput((output,)))
        return True

    def detach(self, listener: Listener) -> None:
        """Note that a connection is gone; the lease begins if it was the latest one."""
        if self._listener is not listener:
            return
        self._listener = None
        if self._kept:
            self._lease = self._loop.call_later(self._lease_s, self.end)
        else:
            self.end()

    def submit(self, request: WorkRequest) -> None:
        """Start a request, unless it is known already."""
        known = self._kept.get(request.request_id)
        if known is not None and known.attempt >= request.attempt:
            return
        if known is None or known.has_ended:
            self.num_live += 1
        self._kept[request.request_id] = KeptOutputs(request.request_id, request.attempt)
        self._worker.submit(request)

    def cancel(self, request_id: str) -> None:
        """Stop a request and forget its outputs; ignore unknown ids."""
        kept = self._kept.pop(request_id, None)
        if kept is not None and not kept.has_ended:
            self.num_live -= 1
            self._worker.cancel(request_id)

    def forget(self, request_ids: Sequence[str]) -> None:
        """Drop the outputs of requests whose end the router has heard of."""
        for request_id in request_ids:
            self._kept.pop(request_id, None)

    def end(self) -> None:
        """Cancel all that the router has here. Safe to repeat."""
        self._end_lease()
        self._listener = None
        for request_id in [*self._kept]:
            self.cancel(request_id)
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            self._on_end()

    def _end_lease(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None

    def _missing(self, work: worker_pb2.WantedWork) -> Sequence[SequenceOutput]:
        kept = self._kept.get(work.request_id)
        if kept is not None:
            return [*kept.since(work.next_index)]
        if work.is_resubmitted:
            return ()
        lost = WorkFailure(Reason.WORKER_LOST, "the worker has given the request up")
        return (SequenceOutput(work.request_id, work.next_index, failure=lost),)

    def _hear(self, step: StepOutput) -> None:
        """Pass a step on to the event loop; runs in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._take, step)

    def _take(self, step: StepOutput) -> None:
        mine = tuple(output for output in step.sequences if output.request_id in self._kept)
        for output in mine:
            self._kept[output.request_id].add(output)
            if output.finish_reason or output.failure:
                self.num_live -= 1
        if self._listener is not None:
            self._listener.put(StepOutput(mine))
