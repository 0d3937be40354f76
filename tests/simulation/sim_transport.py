"""Transport of KV between the worker processes of the simulation, by their names."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from common.kv_transfer.transport import TransferError
from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest
from decode_worker.pull import Pull
from prefill_worker.outbox import KVOutbox

if TYPE_CHECKING:
    from tests.simulation.sim_worker import SimProcess

POLL_S, DEATH_SEEN_S = 0.004, 0.01


class SimStream:
    """Items of one prompt; those that prefill has sent stay readable when it dies, as Ray's do."""

    def __init__(self, process: "SimProcess", request: WorkRequest, outbox: KVOutbox) -> None:
        self._process = process
        self._key = request.request_id, request.attempt
        self._outbox = outbox
        self._num_last: int | None = None  # items that the process had sent when it died
        process.streams.append(self)

    def end_here(self) -> None:
        """Lose what the process sends from now on: it is dead."""
        self._num_last = self._outbox._items.qsize()

    async def next_item(self, pull: Pull, timeout_s: float) -> WireItem | None:
        """Return the next item, None at the end. Raises TransferError."""
        deadline_s, items = time.monotonic() + timeout_s, self._outbox._items
        while items.empty() or self._num_last == 0:
            await asyncio.sleep(POLL_S)
            if pull.is_closed:
                return None
            if not self._process.is_alive and (items.empty() or self._num_last == 0):
                await asyncio.sleep(DEATH_SEEN_S)
                raise TransferError("prefill worker failed: ActorDiedError")
            if time.monotonic() > deadline_s:
                raise TransferError(f"no KV for {timeout_s} s")
        if self._num_last is not None:
            self._num_last -= 1
        return items.get_nowait()

    def next(self, timeout_s: float) -> WireItem | None:
        """Never called: pulls are tasks."""
        raise NotImplementedError

    def close(self) -> None:
        """End the stream and tell prefill."""
        if self._process.is_alive:
            self._process.loop.post(lambda: self._process.prefill.cancel(self._key))


@dataclass
class SimTransport:
    """Streams between the processes of the simulation, by their names."""

    processes: dict[str, "SimProcess"] = field(default_factory=dict)

    def open(self, worker: str, request: WorkRequest) -> SimStream:
        """Ask a prefill worker for a prompt's KV. Raises TransferError."""
        process = self.processes.get(worker)
        if process is None or not process.is_alive or process.source is None:
            raise TransferError(f"prefill worker {worker} is not reachable")
        source = process.source
        request = replace(request, max_item_tokens=source.credit.max_item_tokens(request))
        seq = source._prefix.new_sequence(request, time.monotonic())
        outbox = KVOutbox(source.credit.look_again)
        process.loop.post(lambda: process.prefill.accept(seq, outbox))
        return SimStream(process, request, outbox)
