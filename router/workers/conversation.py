"""One connection to a worker: a channel of its own, from the first message to the end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum

import grpc

from common.certificates import WorkerAccess
from common.rpc.bearer import bearer_metadata
from common.rpc.internal_tls import is_untrusted, open_channel
from pdserve.errors import UntrustedWorkerError
from pdserve.v1 import worker_pb2, worker_pb2_grpc

_Request = worker_pb2.ConnectRequest
_NONSENSE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN)


class Conversation:
    """Messages of one stream between router and worker."""

    def __init__(self) -> None:
        self._outgoing: asyncio.Queue[_Request | None] = asyncio.Queue()
        self._patience: asyncio.Timeout | None = None  # while it runs

    def say(self, message: _Request) -> None:
        """Send a message, behind those before."""
        self._outgoing.put_nowait(message)

    async def run(
        self,
        address: str,
        access: WorkerAccess,
        take: Callable[[worker_pb2.ConnectResponse], None],
        within_s: float,
    ) -> None:
        """Connect, and call `take` with every message until the stream ends.

        Raises AioRpcError; TimeoutError when `is_answered` was not called for `within_s`, or after
        `hang_up`; UntrustedWorkerError; ConnectionError as `open_channel` does; and what `take` raises.
        """
        async with open_channel(address, access.certificates) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            call = stub.Connect(self._take_all(), metadata=bearer_metadata(access.token))
            try:
                async with asyncio.timeout(within_s) as self._patience:
                    async for message in call:
                        take(message)
            except grpc.aio.AioRpcError as error:
                if is_untrusted(str(error.details())):
                    raise UntrustedWorkerError(address) from error
                raise
            finally:
                self._patience = None
                call.cancel()
                self._outgoing.put_nowait(None)  # ends the writer, which gRPC leaves waiting

    def is_answered(self) -> None:
        """Wait for messages without a limit from now on."""
        if self._patience is not None:
            self._patience.reschedule(None)

    def hang_up(self) -> None:
        """End the stream; `run` raises TimeoutError, and takes no message any more. Safe to repeat."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def _take_all(self) -> AsyncIterator[_Request]:
        """Yield the messages to send, up to the first None."""
        while (message := await self._outgoing.get()) is not None:
            yield message


class Fault(Enum):
    """Reading of an error, as to what it says about the worker."""

    BREAK = "the connection broke, or never came about; the worker may live"
    REFUSED = "no process listens at the worker's address"
    NONSENSE = "a message cannot be read or is too large, and would be so again"


def fault_of(error: Exception) -> Fault:
    """Return what the end of a conversation says about the worker."""
    if isinstance(error, OSError):  # TimeoutError is one
        return Fault.BREAK
    if not isinstance(error, grpc.aio.AioRpcError) or error.code() in _NONSENSE:
        return Fault.NONSENSE
    return Fault.REFUSED if "Connection refused" in str(error.details()) else Fault.BREAK


def brief(error: Exception) -> str:
    """Return the reason why a conversation ended, for the log."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else repr(error)
