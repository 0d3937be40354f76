"""Worker that sends any messages that a test gives it, even nonsense."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc

from pdserve.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.support.router_stack import HOST

Messages = AsyncIterator[worker_pb2.ConnectResponse]


class HandwrittenWorker(worker_pb2_grpc.WorkerServicer):
    """Servicer that answers every connection with the test's messages."""

    def __init__(
        self, answer: Callable[[], Messages], heard: list[worker_pb2.ConnectRequest]
    ) -> None:
        self._answer = answer
        self._heard = heard

    async def Connect(
        self,
        request_iterator: AsyncIterator[worker_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[worker_pb2.ConnectRequest, worker_pb2.ConnectResponse],
    ) -> Messages:
        listening = asyncio.create_task(self._listen(request_iterator))
        try:
            async for message in self._answer():
                yield message
        finally:
            listening.cancel()

    async def _listen(self, requests: AsyncIterator[worker_pb2.ConnectRequest]) -> None:
        async for request in requests:
            self._heard.append(request)


@contextlib.asynccontextmanager
async def handwritten_worker(
    answer: Callable[[], Messages], heard: list[worker_pb2.ConnectRequest] | None = None
) -> AsyncIterator[str]:
    """Yield its address; messages from routers are added to `heard`."""
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(
        HandwrittenWorker(answer, heard if heard is not None else []), server
    )
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    yield f"{HOST}:{port}"
    await server.stop(grace=None)
