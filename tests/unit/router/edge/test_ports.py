"""Sockets that the router's servers listen on."""

import asyncio
import socket

import pytest

from router.edge.ports import bind


@pytest.mark.parametrize("is_shared", [False, True])
async def test_connections_send_what_is_written_at_once(is_shared: bool) -> None:
    """Nagle's algorithm would keep the second part of an answer until the client's delayed ACK."""
    accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer.get_extra_info("socket"))
        writer.close()

    bound = bind("127.0.0.1", "a_port", 0, is_shared=is_shared)
    async with await asyncio.start_server(note, sock=bound):
        _, writer = await asyncio.open_connection(*bound.getsockname())
        taken = await accepted
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
