"""The worker's side of the router's stream.

1. A router connects; the worker introduces itself (WorkerInfo), then reports its load and prefixes. It does
   so again when it has taken another role.
2. Submits, cancels and questions come down; a connection owns what was submitted on it. A router that drains
   the worker says so, and all others learn it with the next report, which comes at once.
3. The engine's thread publishes one StepOutput per step; each connection takes its own requests' share.
4. When the stream ends, for whatever reason, everything it still owns is cancelled.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import grpc

from common.ledger import BlockLedger
from common.messages import StepOutput, WorkerInfo, WorkerLoad, WorkRequest
from common.prefix_log import PrefixLog
from common.rpc.convert import info_to_pb, load_to_pb, request_from_pb, step_to_pb
from common.rpc.convert_ledger import answer_to_pb
from common.rpc.convert_routing import prefixes_to_pb
from pdserve.v1 import worker_pb2, worker_pb2_grpc

_REPORT_EVERY_S = 1.0


class WorkerPort(Protocol):
    """What the service drives. All methods may be called from any thread."""

    @property
    def info(self) -> WorkerInfo:
        """Who it is: the same object until its role changes."""

    @property
    def prefixes(self) -> PrefixLog:
        """Which prefixes it holds."""

    def submit(self, request: WorkRequest) -> None:
        """Start a request."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; unknown ids are ignored."""

    def load(self) -> WorkerLoad:
        """Load now."""

    def ask_blocks(self, request_id: str, answer: Callable[[BlockLedger], None]) -> None:
        """Call `answer` before the next step, on the engine's thread: the ledger, if `request_id` is not
        empty only of this request or group.
        """

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Call `sink` after every step, on the engine's thread; returns what ends it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    query_id: int
    ledger: BlockLedger


_News = asyncio.Queue[StepOutput | _Answer]


@dataclass(eq=False, slots=True)
class _Connection:
    """What one router has here: the requests it owns, what it is to be told, how far it knows the prefixes.

    Lives on the event loop; `tell` alone is called from the engine's thread.
    """

    loop: asyncio.AbstractEventLoop
    owned: set[str] = field(default_factory=set)
    news: _News = field(default_factory=asyncio.Queue)
    prefixes_reached: int | None = None
    drains: bool = False  # its router wants that

    def tell(self, item: StepOutput | _Answer) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed since: nobody listens
            self.loop.call_soon_threadsafe(self.news.put_nowait, item)


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """Translates and calls; decides nothing."""

    def __init__(self, worker: WorkerPort) -> None:
        self._worker = worker
        self._connections: set[_Connection] = set()

    async def Connect(
        self,
        request_iterator: AsyncIterator[worker_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[worker_pb2.ConnectRequest, worker_pb2.ConnectResponse],
    ) -> AsyncIterator[worker_pb2.ConnectResponse]:
        """See worker.proto."""
        connection = _Connection(asyncio.get_running_loop())
        self._connections.add(connection)
        unsubscribe = self._worker.subscribe(connection.tell)
        reader = asyncio.create_task(self._read(request_iterator, connection))
        try:
            introduced = self._worker.info
            yield worker_pb2.ConnectResponse(info=info_to_pb(introduced))
            for report in self._reports(connection):
                yield report
            while not reader.done():
                item = await _next(connection.news, reader)
                for message in _to_messages(item, connection.owned) if item else ():
                    yield message
                if self._worker.info is not introduced:
                    introduced = self._worker.info
                    yield worker_pb2.ConnectResponse(info=info_to_pb(introduced))
                for report in self._reports(connection):
                    yield report
        finally:
            unsubscribe()
            reader.cancel()
            for request_id in connection.owned:
                self._worker.cancel(request_id)
            self._connections.discard(connection)
            self._report_to_all()

    async def _read(
        self, messages: AsyncIterator[worker_pb2.ConnectRequest], connection: _Connection
    ) -> None:
        async for message in messages:
            if message.HasField("submit"):
                connection.owned.add(message.submit.request_id)
                self._worker.submit(request_from_pb(message.submit))
            elif message.HasField("cancel"):
                connection.owned.discard(message.cancel.request_id)
                self._worker.cancel(message.cancel.request_id)
            elif message.HasField("resync"):
                connection.prefixes_reached = None
            elif message.HasField("query"):
                self._ask(message.query, connection)
            elif message.HasField("set_draining"):
                connection.drains = message.set_draining.is_draining
                self._report_to_all()

    def _report_to_all(self) -> None:
        for connection in self._connections:
            connection.news.put_nowait(StepOutput())

    def _ask(self, query: worker_pb2.QueryBlocks, connection: _Connection) -> None:
        def answer(ledger: BlockLedger) -> None:
            connection.tell(_Answer(query.query_id, ledger))

        self._worker.ask_blocks(query.request_id, answer)

    def _reports(self, connection: _Connection) -> list[worker_pb2.ConnectResponse]:
        """Load, and what changed of the prefixes since the last time."""
        load = replace(
            self._worker.load(),
            num_submitted=sum(len(each.owned) for each in self._connections),
            is_draining=any(each.drains for each in self._connections),
        )
        reports = [worker_pb2.ConnectResponse(load=load_to_pb(load))]
        for update in self._worker.prefixes.since(connection.prefixes_reached):
            reports.append(worker_pb2.ConnectResponse(prefixes=prefixes_to_pb(update)))
            connection.prefixes_reached = update.end
        return reports


async def _next(news: _News, reader: "asyncio.Task[None]") -> StepOutput | _Answer | None:
    """The next news, or None after a while without any or when the router has gone."""
    getter = asyncio.ensure_future(news.get())
    try:
        await asyncio.wait(
            {getter, reader}, timeout=_REPORT_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        getter.cancel()  # also when the stream ends meanwhile; one that is done stays done
    with contextlib.suppress(asyncio.CancelledError):
        return await getter
    return None


def _to_messages(
    item: StepOutput | _Answer, owned: set[str]
) -> Iterator[worker_pb2.ConnectResponse]:
    if isinstance(item, _Answer):
        yield worker_pb2.ConnectResponse(blocks=answer_to_pb(item.query_id, item.ledger))
    elif (share := _share(item, owned)) is not None:
        for part in _parts(share):
            yield worker_pb2.ConnectResponse(step=step_to_pb(part))


def _share(step: StepOutput, owned: set[str]) -> StepOutput | None:
    mine = tuple(output for output in step.sequences if output.request_id in owned)
    for output in mine:
        if output.finish_reason or output.failure:
            owned.discard(output.request_id)
    return StepOutput(mine) if mine else None


def _parts(step: StepOutput) -> list[StepOutput]:
    """A message for each prompt's log-probabilities, which may take megabytes, and one for all the rest."""
    rest = tuple(output for output in step.sequences if not output.prompt_logprobs)
    parts = [StepOutput((output,)) for output in step.sequences if output.prompt_logprobs]
    return [*parts, StepOutput(rest)] if rest else parts
