"""TCP relay in front of a server, whose connections a test can break as a network does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Relay that passes bytes on, both ways, while no test breaks it."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self._writers: list[asyncio.StreamWriter] = []
        self._to_server, self._to_client = asyncio.Event(), asyncio.Event()
        self.num_accepted = 0
        self.num_held = 0  # pieces of data that a freeze held up
        self.heal()

    def lose(self) -> None:
        """Reset every connection; new ones are served."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def redirect(self, address: str) -> None:
        """Serve new connections from another server."""
        host, _, port = address.rpartition(":")
        self.target = (host, int(port))

    def freeze(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Pass nothing on in these directions, also on new connections, until `heal`."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def heal(self) -> None:
        """Pass on all that was held up, and what comes."""
        self._to_server.set()
        self._to_client.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.num_accepted += 1
        self._writers.append(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(to_writer)
        await asyncio.gather(
            self._pass(reader, to_writer, self._to_server),
            self._pass(to_reader, writer, self._to_client),
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                self.num_held += not is_open.is_set()
                await is_open.wait()
                writer.write(data)
                await writer.drain()
        await is_open.wait()
        writer.close()


@contextlib.asynccontextmanager
async def relaying(address: str) -> AsyncIterator[tuple[str, Relay]]:
    """Yield the relay's address and the relay."""
    host, _, port = address.rpartition(":")
    relay = Relay(host, int(port))
    server = await asyncio.start_server(relay.accept, host, 0)
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}", relay
    finally:
        relay.heal()  # lets what waits in a direction see its connection's end
        relay.lose()
        server.close()
        await server.wait_closed()
