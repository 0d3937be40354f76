"""Sockets that the router's servers listen on."""

import asyncio
import socket

import pytest

from router.edge.ports import bind


class Taking(asyncio.Protocol):
    """Takes one connection; `option` gets its TCP_NODELAY."""

    def __init__(self, option: asyncio.Future[int]) -> None:
        self._option = option

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        taken = transport.get_extra_info("socket")
        self._option.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        transport.close()


@pytest.mark.parametrize("is_shared", [False, True])
async def test_connections_send_what_is_written_at_once(is_shared: bool) -> None:
    """Nagle's algorithm would keep the second part of an answer until the client's delayed ACK."""
    loop = asyncio.get_running_loop()
    option: asyncio.Future[int] = loop.create_future()
    bound = bind("127.0.0.1", "a_port", 0, is_shared=is_shared)
    bound.listen()
    server = await loop.create_server(lambda: Taking(option), sock=bound)
    with socket.create_connection(bound.getsockname()):
        assert await option == 1
    server.close()
    await server.wait_closed()
