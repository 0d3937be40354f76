"""TCP relay in front of a server, whose connections a test can break as a network does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Relay that passes bytes on until `lose`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: list[asyncio.StreamWriter] = []

    def lose(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        to_reader, to_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, to_writer]
        await asyncio.gather(_pass(reader, to_writer), _pass(to_reader, writer))


@contextlib.asynccontextmanager
async def relaying(address: str) -> AsyncIterator[tuple[str, Relay]]:
    """Yield the relay's address and the relay."""
    host, _, port = address.rpartition(":")
    relay = Relay(host, int(port))
    server = await asyncio.start_server(relay.accept, host, 0)
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}", relay
    finally:
        relay.lose()
        server.close()
        await server.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()
