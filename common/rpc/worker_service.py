"""The worker's side of the router's stream.

1. A router connects (`Connect`); the worker introduces itself (WorkerInfo), then reports its load and
   prefixes. It does so again when it has taken another role.
2. Submits, cancels and questions come down (`_read`); a connection owns the requests submitted on it. A
   router that drains the worker says so, and all others learn it with the next report, sent at once.
3. The engine's thread publishes one StepOutput per step; each connection takes its own requests' share.
4. When the stream ends, for whatever reason, all requests that it still owns are cancelled.
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
    """A worker as the service sees it. All methods may be called from any thread."""

    @property
    def info(self) -> WorkerInfo:
        """Identity of the worker: the same object until its role changes."""

    @property
    def prefixes(self) -> PrefixLog:
        """Log of the prefixes that the worker's blocks hold."""

    def submit(self, request: WorkRequest) -> None:
        """Start a request."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; ignore unknown ids."""

    def load(self) -> WorkerLoad:
        """Return the load now."""

    def ask_blocks(self, request_id: str, answer: Callable[[BlockLedger], None]) -> None:
        """Call `answer` with the ledger before the next step, in the engine's thread.

        The ledger is of all requests, or of one request or group if `request_id` is not empty.
        """

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Call `sink` after every step, in the engine's thread; return the function that ends it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    query_id: int
    ledger: BlockLedger


_News = asyncio.Queue[StepOutput | _Answer]


@dataclass(eq=False, slots=True)
class _Connection:
    """One router's connection: the requests that it owns, its queue of news, the prefixes it knows.

    It lives on the event loop; only `tell` is called from the engine's thread.
    """

    loop: asyncio.AbstractEventLoop
    owned: set[str] = field(default_factory=set)
    news: _News = field(default_factory=asyncio.Queue)
    prefixes_reached: int | None = None
    drains: bool = False  # its router wants the worker to get no new requests

    def tell(self, item: StepOutput | _Answer) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
            self.loop.call_soon_threadsafe(self.news.put_nowait, item)


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """Serves routers: translates messages and calls the worker, decides nothing."""

    def __init__(self, worker: WorkerPort) -> None:
        self._worker = worker
        self._connections: set[_Connection] = set()

    async def Connect(
        self,
        request_iterator: AsyncIterator[worker_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[worker_pb2.ConnectRequest, worker_pb2.ConnectResponse],
    ) -> AsyncIterator[worker_pb2.ConnectResponse]:
        """Serve one router until its stream ends (worker.proto)."""
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
        """Return the load and the changes of the prefixes since the last report."""
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
    """Return the next news; None after `_REPORT_EVERY_S` without any, or when the router has gone."""
    getter = asyncio.ensure_future(news.get())
    try:
        await asyncio.wait(
            {getter, reader}, timeout=_REPORT_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        getter.cancel()  # also when the stream ends meanwhile; a getter that is done stays done
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
    """Split a step: a part for each prompt's log-probabilities, often megabytes, and one for the rest."""
    rest = tuple(output for output in step.sequences if not output.prompt_logprobs)
    parts = [StepOutput((output,)) for output in step.sequences if output.prompt_logprobs]
    return [*parts, StepOutput(rest)] if rest else parts
