"""The router's side of one worker's stream.

1. `start` connects, and again after every loss, with back-off, until `close`.
2. The worker introduces itself. `on_info` may refuse it (another model); then the link stays down.
   With its first load report it is connected. Then it reports the prefixes that it holds, and
   their changes.
3. `submit` opens a WorkStream and sends the job. Step outputs are handed out to the streams.
4. `ask_blocks` sends a question. The answer comes between the step outputs.
5. When the connection is lost, every open stream gets a WORKER_LOST failure, and every question an
   error. So no request waits for a dead worker.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import grpc

from common.messages import SequenceOutput, WorkerInfo, WorkerLoad, WorkFailure, WorkRequest
from common.rpc.channel import CLIENT_OPTIONS
from common.rpc.convert import info_from_pb, load_from_pb, request_to_pb, step_from_pb
from common.rpc.convert_routing import prefixes_from_pb
from common.rpc.guard import bearer_metadata
from common.telemetry.logs import get_logger
from pdserve.errors import PdserveError, Reason, UnavailableError
from pdserve.v1 import ledger_pb2, worker_pb2, worker_pb2_grpc
from router.routing.prefix_index import PrefixIndex
from router.workers.questions import Questions
from router.workers.unread import SLOW_CLIENT, Unread

_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_SILENT_AFTER_S = 5.0  # workers report every second
_log = get_logger()

_Outgoing = asyncio.Queue[worker_pb2.ConnectRequest | None]
_Call = grpc.aio.StreamStreamCall[worker_pb2.ConnectRequest, worker_pb2.ConnectResponse]


class WorkStream:
    """Outputs of one choice as they come from its worker."""

    def __init__(self, request_id: str, max_unread_tokens: int) -> None:
        self.request_id = request_id
        self._outputs = Unread(max_unread_tokens)
        self._link: WorkerLink | None = None

    def put(self, output: SequenceOutput) -> None:
        """Add an output of the worker."""
        self._outputs.put(output)

    @property
    def is_full(self) -> bool:
        """True while more tokens are unread than a client may leave unread."""
        return self._outputs.is_full

    def fail(self, reason: Reason, message: str) -> None:
        """End the stream with a failure."""
        self.put(SequenceOutput(self.request_id, 0, failure=WorkFailure(reason, message)))

    def submitted(self, link: "WorkerLink") -> None:
        """Note the link on which the stream's job was sent."""
        self._link = link

    def cancel(self, message: str) -> None:
        """End the stream with a failure, and its work at once, even before unread outputs are read."""
        self.fail(Reason.CANCELLED, message)
        self.close()

    def close(self) -> None:
        """End the stream's work at its worker, if that still goes on. Safe to repeat."""
        if self._link is not None:
            self._link.release(self)

    async def next(self) -> SequenceOutput:
        """Wait for the next output. None follows a finish or failure."""
        return await self._outputs.get()


class WorkerLink:
    """A worker as the router knows it. Call all methods on the router's event loop."""

    def __init__(
        self, address: str, on_info: Callable[[WorkerInfo], None], cluster_token: str = ""
    ) -> None:
        self.address = address
        self.info: WorkerInfo | None = None
        self.load = WorkerLoad()
        self.prefixes = PrefixIndex()
        self.is_connected = False
        self.refusal: PdserveError | None = None
        self._on_info = on_info
        self._metadata = bearer_metadata(cluster_token)
        self._last_heard_s = time.monotonic()
        self._streams: dict[str, WorkStream] = {}
        self._questions = Questions()
        self._drains = False
        self._outgoing: _Outgoing = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._channel: grpc.aio.Channel | None = None

    @property
    def num_live(self) -> int:
        """Number of this router's choices that the worker has."""
        return len(self._streams)

    @property
    def is_silent(self) -> bool:
        """True if the worker has said nothing for too long, connected or not."""
        return time.monotonic() - self._last_heard_s > _SILENT_AFTER_S

    def start(self) -> None:
        """Start connecting in the background."""
        self._channel = grpc.aio.insecure_channel(self.address, options=CLIENT_OPTIONS)
        self._task = asyncio.create_task(self._run(self._channel))

    async def close(self) -> None:
        """Disconnect for good; open streams and questions fail as after a loss."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._lose()
        if self._channel is not None:
            await self._channel.close()

    def submit(self, request: WorkRequest, stream: WorkStream) -> None:
        """Send a job whose outputs go to `stream`; `release` must follow.

        Raises UnavailableError when the worker is not there.
        """
        if not self.is_connected:
            raise UnavailableError(f"worker at {self.address} is gone", reason=Reason.WORKER_LOST)
        self._streams[request.request_id] = stream
        stream.submitted(self)
        self._outgoing.put_nowait(worker_pb2.ConnectRequest(submit=request_to_pb(request)))

    def release(self, stream: WorkStream) -> None:
        """Forget a stream; a worker that still works on it is told to stop. Safe to repeat."""
        if self._streams.pop(stream.request_id, None) is not None and self.is_connected:
            cancel = worker_pb2.CancelWork(request_id=stream.request_id)
            self._outgoing.put_nowait(worker_pb2.ConnectRequest(cancel=cancel))

    def set_draining(self, is_draining: bool) -> None:
        """Make the worker tell all routers to send it nothing new, or to send again."""
        if is_draining is not self._drains:
            self._drains = is_draining
            self._say_draining()

    async def ask_blocks(self, work_id: str) -> ledger_pb2.BlockLedger:
        """Return the holders of the worker's blocks: all for "", else one request or group.

        The deadline is the caller's. Raises UnavailableError when the worker is not connected or
        goes away.
        """
        if not self.is_connected:
            raise UnavailableError("unreachable")
        number, answer = self._questions.ask()
        query = worker_pb2.QueryBlocks(query_id=number, request_id=work_id)
        self._outgoing.put_nowait(worker_pb2.ConnectRequest(query=query))
        return await answer

    async def _run(self, channel: grpc.aio.Channel) -> None:
        failures = 0
        stub = worker_pb2_grpc.WorkerStub(channel)
        while self.refusal is None:
            try:
                await self._converse(stub)
            except Exception as error:  # also a peer's nonsense: the streams must learn of the loss
                _log.warning("worker_lost", address=self.address, error=_brief(error))
            failures = 0 if self.is_connected else failures + 1
            self._lose()
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    async def _converse(self, stub: worker_pb2_grpc.WorkerStub) -> None:
        # the stubs describe the synchronous call; on an aio channel it is an async iterator
        call = cast(_Call, stub.Connect(_take_all(self._outgoing), metadata=self._metadata))  # type: ignore[arg-type]
        try:
            async for message in call:
                self._last_heard_s = time.monotonic()
                if message.HasField("step"):
                    for output in step_from_pb(message.step):
                        self._hand_out(output)
                elif message.HasField("load"):
                    self.load = load_from_pb(message.load)
                    self.is_connected = True  # not earlier: its KV memory is part of the report
                elif message.HasField("prefixes"):
                    if not self.prefixes.apply(prefixes_from_pb(message.prefixes)):
                        resync = worker_pb2.ResyncPrefixes()
                        self._outgoing.put_nowait(worker_pb2.ConnectRequest(resync=resync))
                elif message.HasField("blocks"):
                    self._questions.settle(message.blocks.query_id, message.blocks.ledger)
                elif message.HasField("info") and not self._accept(info_from_pb(message.info)):
                    return
        finally:
            call.cancel()

    def _accept(self, info: WorkerInfo) -> bool:
        try:
            self._on_info(info)
        except PdserveError as error:
            self.refusal = error
            _log.error("worker_refused", worker=info.name, error=str(error))
            return False
        self.info = info
        return True

    def _say_draining(self) -> None:
        message = worker_pb2.SetDraining(is_draining=self._drains)
        self._outgoing.put_nowait(worker_pb2.ConnectRequest(set_draining=message))

    def _hand_out(self, output: SequenceOutput) -> None:
        stream = self._streams.get(output.request_id)
        if stream is None:
            return
        if output.finish_reason or output.failure:
            del self._streams[output.request_id]
        stream.put(output)
        if stream.is_full and output.request_id in self._streams:
            stream.fail(Reason.SLOW_CONSUMER, SLOW_CLIENT)
            self.release(stream)

    def _lose(self) -> None:
        self.is_connected = False
        self.prefixes = PrefixIndex()
        self._outgoing.put_nowait(
            None
        )  # ends the writer of the lost call, which gRPC leaves waiting
        self._outgoing = asyncio.Queue()
        if self._drains:  # the worker forgot it with the connection
            self._say_draining()
        for stream in self._streams.values():
            stream.fail(Reason.WORKER_LOST, "the decode worker is gone")
        self._streams.clear()
        self._questions.lose("its connection was lost")


async def _take_all(messages: _Outgoing) -> AsyncIterator[worker_pb2.ConnectRequest]:
    """Yield the messages of the queue, up to the first None."""
    while (message := await messages.get()) is not None:
        yield message


def _brief(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else repr(error)
