"""The worker's side of the router's stream.

1. A router connects (`Connect`); the worker introduces itself (WorkerInfo), then reports its load and
   prefixes. It does so again when it has taken another role.
2. The router's first message names it: a RouterSession owns its requests, and keeps their outputs when
   the connection breaks.
3. Submits, cancels and questions come down (`_read`). A router that drains the worker says so, and all
   others learn it with the next report, sent at once.
4. The engine's thread publishes one StepOutput per step; each session takes its own requests' share.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

import grpc

from common.ledger import BlockLedger
from common.messages import StepOutput
from common.rpc.convert import info_to_pb, load_to_pb, request_from_pb, step_to_pb
from common.rpc.convert_ledger import answer_to_pb, question_from_pb
from common.rpc.convert_routing import prefixes_to_pb
from common.rpc.router_session import RouterSession
from common.rpc.worker_port import WorkerPort
from pdserve.v1 import worker_pb2, worker_pb2_grpc

LEASE_S = 10.0  # twice as long as a router looks for a worker that it has lost
_REPORT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Answer:
    query_id: int
    ledger: BlockLedger


_News = asyncio.Queue[StepOutput | _Answer]


@dataclass(eq=False, slots=True)
class _Connection:
    """One router's connection: its session, its queue of news, the prefixes that its router knows."""

    news: _News = field(default_factory=asyncio.Queue)
    has_ended: bool = False
    session: RouterSession | None = None  # once it has attached
    prefixes_reached: int | None = None
    drains: bool = False  # its router wants the worker to get no new requests

    def put(self, step: StepOutput) -> None:
        """Send a step's outputs (Listener)."""
        self.news.put_nowait(step)

    def close(self) -> None:
        """End the connection (Listener)."""
        self.has_ended = True
        self.news.put_nowait(StepOutput())  # wakes the writer


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """Serves routers: translates messages and calls the worker, decides nothing."""

    def __init__(self, worker: WorkerPort, lease_s: float = LEASE_S) -> None:
        self._worker = worker
        self._lease_s = lease_s
        self._sessions: dict[str, RouterSession] = {}
        self._connections: set[_Connection] = set()

    def close(self) -> None:
        """End all sessions: the worker stops."""
        for session in [*self._sessions.values()]:
            session.end()

    async def Connect(
        self,
        request_iterator: AsyncIterator[worker_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[worker_pb2.ConnectRequest, worker_pb2.ConnectResponse],
    ) -> AsyncIterator[worker_pb2.ConnectResponse]:
        """Serve one router until its stream ends (worker.proto)."""
        connection = _Connection()
        self._connections.add(connection)
        reader = asyncio.create_task(self._read(request_iterator, connection))
        reader.add_done_callback(lambda _: connection.close())
        try:
            introduced = self._worker.info
            yield worker_pb2.ConnectResponse(info=info_to_pb(introduced))
            for report in self._reports(connection):
                yield report
            while not connection.has_ended:
                item = await _next(connection.news)
                for message in _to_messages(item) if item else ():
                    yield message
                if self._worker.info is not introduced:
                    introduced = self._worker.info
                    yield worker_pb2.ConnectResponse(info=info_to_pb(introduced))
                for report in self._reports(connection):
                    yield report
        finally:
            reader.cancel()
            if connection.session is not None:
                connection.session.detach(connection)
            self._connections.discard(connection)
            self._report_to_all()

    async def _read(
        self, messages: AsyncIterator[worker_pb2.ConnectRequest], connection: _Connection
    ) -> None:
        async for message in messages:
            if connection.has_ended:
                return  # what comes late on a stream that another one has replaced
            if connection.session is None:
                if not (message.HasField("attach") and self._attach(message.attach, connection)):
                    return
            elif message.HasField("leave"):
                connection.session.end()
                return
            else:
                self._obey(message, connection, connection.session)

    def _attach(self, message: worker_pb2.Attach, connection: _Connection) -> bool:
        router_id = message.router_id
        session = self._sessions.get(router_id)
        if session is None:
            session = RouterSession(
                self._worker, self._lease_s, lambda: self._forget_session(router_id)
            )
            self._sessions[router_id] = session
        has_attached = session.attach(message, connection)
        if has_attached:
            connection.session = session
        return has_attached

    def _obey(
        self,
        message: worker_pb2.ConnectRequest,
        connection: _Connection,
        session: RouterSession,
    ) -> None:
        if message.HasField("submit"):
            session.submit(request_from_pb(message.submit))
        elif message.HasField("cancel"):
            session.cancel(message.cancel.request_id)
        elif message.HasField("received_ends"):
            session.forget(message.received_ends.request_ids)
        elif message.HasField("resync"):
            connection.prefixes_reached = None
        elif message.HasField("query"):
            self._ask(message.query, connection)
        elif message.HasField("set_draining"):
            connection.drains = message.set_draining.is_draining
            self._report_to_all()

    def _forget_session(self, router_id: str) -> None:
        del self._sessions[router_id]
        self._report_to_all()

    def _report_to_all(self) -> None:
        for connection in self._connections:
            connection.news.put_nowait(StepOutput())

    def _ask(self, query: worker_pb2.QueryBlocks, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()

        def answer(ledger: BlockLedger) -> None:  # in the engine's thread
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
                item = _Answer(query.query_id, ledger)
                loop.call_soon_threadsafe(connection.news.put_nowait, item)

        self._worker.ask_blocks(question_from_pb(query), answer)

    def _reports(self, connection: _Connection) -> list[worker_pb2.ConnectResponse]:
        """Return the load and the changes of the prefixes since the last report."""
        load = replace(
            self._worker.load(),
            num_submitted=sum(each.num_live for each in self._sessions.values()),
            is_draining=any(each.drains for each in self._connections),
        )
        reports = [worker_pb2.ConnectResponse(load=load_to_pb(load))]
        for update in self._worker.prefixes.since(connection.prefixes_reached):
            reports.append(worker_pb2.ConnectResponse(prefixes=prefixes_to_pb(update)))
            connection.prefixes_reached = update.end
        return reports


async def _next(news: _News) -> StepOutput | _Answer | None:
    """Return the next news; None after `_REPORT_EVERY_S` without any."""
    try:
        async with asyncio.timeout(_REPORT_EVERY_S):
            return await news.get()
    except TimeoutError:
        return None


def _to_messages(item: StepOutput | _Answer) -> Iterator[worker_pb2.ConnectResponse]:
    if isinstance(item, _Answer):
        yield worker_pb2.ConnectResponse(blocks=answer_to_pb(item.query_id, item.ledger))
        return
    for part in _parts(item):
        yield worker_pb2.ConnectResponse(step=step_to_pb(part))


def _parts(step: StepOutput) -> list[StepOutput]:
    """Split a step: a part for each prompt's log-probabilities, often megabytes, and one for the rest."""
    rest = tuple(output for output in step.sequences if not output.prompt_logprobs)
    parts = [StepOutput((output,)) for output in step.sequences if output.prompt_logprobs]
    return [*parts, StepOutput(rest)] if rest else parts
