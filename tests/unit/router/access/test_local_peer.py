import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from pdserve.errors import SetupError
from router.access.gateway_port import GatewayPort
from router.access.local_peer import HOST, can_ask, overflow_uid, uid_of
from router.access.tenant import Tenant

NOBODY = 65534


def peer_of(client: socket.socket) -> str:
    return f"ipv4:{HOST}:{client.getsockname()[1]}"


def test_the_kernel_tells_that_a_connection_of_ours_is_ours() -> None:
    assert can_ask()
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            assert uid_of(peer_of(client), port) == os.geteuid()


def test_one_that_its_process_has_closed_is_nobodys() -> None:
    """The kernel shows a closed socket as root's for a while."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((HOST, port))
        peer = peer_of(client)
        with server.accept()[0]:
            client.close()
            assert uid_of(peer, port) is None


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "unix:",
        "unix:/tmp/x",
        "ipv4:127.0.0.1",
        "ipv4:127.0.0.1:",
        "ipv4:127.0.0.1:http",
        "ipv4:10.0.0.1:{port}",
        "ipv6:%5B::1%5D:{port}",
        "ipv4:127.0.0.1:1",
    ],
)
def test_other_peers_are_nobodys(peer: str) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            assert uid_of(peer.format(port=client.getsockname()[1]), port) is None


def test_it_is_this_connection_that_is_asked_for(port_of_another: int) -> None:
    with (
        socket.create_server((HOST, 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert uid_of(peer_of(client), port_of_another) is None


@pytest.fixture
def port_of_another() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_connection_is_theirs() -> None:
    def connect(port: int) -> socket.socket:
        # of this thread alone; its new sockets get this owner
        ctypes.CDLL(None).setfsuid(NOBODY)
        return socket.create_connection((HOST, port))

    with socket.create_server((HOST, 0)) as server, ThreadPoolExecutor(1) as other:
        port = server.getsockname()[1]
        with other.submit(connect, port).result() as client:
            assert uid_of(peer_of(client), port) == NOBODY


async def test_as_whom_strangers_show_up_nobody_is_served() -> None:
    port = GatewayPort(Tenant("web"), uid=overflow_uid())
    with pytest.raises(SetupError, match="users of other containers") as caught:
        await port.start(lambda _: pytest.fail("served"))
    assert "\n" not in str(caught.value)
    await port.stop(0.0)
