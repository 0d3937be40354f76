"""The network between router and workers, in memory: delays, cuts, one-way silence, dead processes."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from grpc.aio import Metadata

from common.certificates import WorkerAccess
from pdserve.v1 import worker_pb2
from router.workers.conversation import Conversation
from tests.simulation.sim_worker import SimProcess

LATENCY_S = 0.001
_CUT = object()


@dataclass
class Network:
    """Processes by address, and the connections to them. Delays are random, but messages keep their order."""

    draw: random.Random
    processes: dict[str, SimProcess] = field(default_factory=dict)
    connections: dict[str, list["Connection"]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)  # addresses from which nothing arrives

    def cut(self, address: str) -> None:
        """Break every connection to an address; what is under way is lost."""
        for connection in self.connections.pop(address, []):
            connection.cut()

    def silence(self, address: str) -> None:
        """Let nothing arrive from an address, until `heal`."""
        self.silent.add(address)

    def heal(self, address: str) -> None:
        """Deliver what was held back."""
        self.silent.discard(address)

    async def travel(self, address: str) -> None:
        """Wait as a message from or to an address does."""
        await asyncio.sleep(LATENCY_S * self.draw.uniform(0.2, 5))
        while address in self.silent:
            await asyncio.sleep(10 * LATENCY_S)

    def connect(self, address: str, requests: AsyncIterator[Any]) -> "Connection":
        """Open a connection. Raises AioRpcError if no process listens there."""
        process = self.processes.get(address)
        if process is None or not process.is_alive:
            _fail("Connection refused")
        connection = Connection(self, address, process, requests)
        self.connections.setdefault(address, []).append(connection)
        return connection


class Connection:
    """One stream: a task that carries messages each way, and one that runs the service."""

    def __init__(
        self, network: Network, address: str, process: SimProcess, requests: AsyncIterator[Any]
    ) -> None:
        self._network = network
        self._address = address
        self._up: asyncio.Queue[Any] = asyncio.Queue()
        self._down: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(self._carry_up(requests)),
            asyncio.create_task(self._serve(process)),
        ]

    async def messages(self) -> AsyncIterator[worker_pb2.ConnectResponse]:
        """Yield what arrives. Raises AioRpcError when the connection is cut."""
        try:
            while (message := await self._down.get()) is not None:
                if message is _CUT:
                    _fail("Socket closed")
                await self._network.travel(self._address)
                yield message
        finally:
            self.close()

    def cut(self) -> None:
        """Break it, and lose what is under way."""
        self._down = _and_wake(self._down)
        self.close()

    def close(self) -> None:
        """End both directions."""
        for task in self._tasks:
            task.cancel()

    async def _carry_up(self, requests: AsyncIterator[Any]) -> None:
        async for message in requests:
            await self._network.travel(self._address)
            self._up.put_nowait(message)
        self._up.put_nowait(None)

    async def _serve(self, process: SimProcess) -> None:
        context: Any = None
        answers: Any = process.service.Connect(self._requests(), context)
        try:
            async for message in answers:
                self._down.put_nowait(message)
            self._down.put_nowait(None)
        finally:
            await answers.aclose()

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self._up.get()) is not None:
            yield message


def conversations(network: Network) -> Callable[[], Conversation]:
    """Return what a WorkerLink makes its conversations of."""

    class SimConversation(Conversation):
        async def run(
            self,
            address: str,
            access: WorkerAccess,
            take: Callable[[worker_pb2.ConnectResponse], None],
            within_s: float,
        ) -> None:
            async with asyncio.timeout(within_s) as self._patience:
                try:
                    await network.travel(address)
                    connection = network.connect(address, self._take_all())
                    async for message in connection.messages():
                        take(message)
                finally:
                    self._patience = None
                    self._outgoing.put_nowait(None)

    return SimConversation


def _and_wake(lost: "asyncio.Queue[Any]") -> "asyncio.Queue[Any]":
    """Empty a queue, whose reader then finds the cut."""
    while not lost.empty():
        lost.get_nowait()
    lost.put_nowait(_CUT)
    return lost


def _fail(details: str) -> NoReturn:
    raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details)
