"""The user at the other end of a connection within this machine, as the kernel knows it.

The question goes over sock_diag(7), as with `ss -e`. It takes microseconds with any number of
connections.
"""

import os
import socket
import struct
from pathlib import Path

HOST = "127.0.0.1"
_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_REQUEST = 1  # NLM_F_REQUEST, linux/netlink.h
_ESTABLISHED = 1  # net/tcp_states.h
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
# inet_diag_req_v2 up to its id: family, protocol, extensions, padding, states
_ASK = struct.Struct("=BBBBI")
_ID = struct.Struct("!HH16s16s")  # inet_diag_sockid: ports and addresses, network order
_NO_INTERFACE_NOR_COOKIE = struct.pack("=I", 0) + b"\xff" * 8
_STATE_AT = _HEADER.size + 1  # in inet_diag_msg
_OWNER = struct.Struct("=II")  # uid, inode
_OWNER_AT = _HEADER.size + 64
_WITHIN_S = 1.0
_OVERFLOW_UID = Path("/proc/sys/kernel/overflowuid")
_DEFAULT_OVERFLOW_UID = 65534  # linux/highuid.h


def uid_of(peer: str, port: int) -> int | None:
    """Return the user that holds the other end of an open connection to our `port` on loopback.

    `peer` is gRPC's name of it, `ipv4:127.0.0.1:PORT`. Returns None for another kind of peer, and
    when no process holds that socket. Raises OSError when the kernel does not answer.
    """
    host, _, number = peer.removeprefix("ipv4:").rpartition(":")
    if host != HOST or not number.isdecimal():
        return None
    address = socket.inet_aton(HOST).ljust(16, b"\0")
    sockets = _ID.pack(int(number), port, address, address) + _NO_INTERFACE_NOR_COOKIE
    ask = _ASK.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 2**32 - 1) + sockets
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_WITHIN_S)
        kernel.send(_HEADER.pack(_HEADER.size + len(ask), _BY_FAMILY, _REQUEST, 0, 0) + ask)
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:  # an error: there is no such socket
        return None
    uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    # one that its process has closed has no inode, and would seem to be root's
    return int(uid) if inode and answer[_STATE_AT] == _ESTABLISHED else None


def overflow_uid() -> int:
    """Return the id that the kernel shows for users of other user namespaces (namespaces(7))."""
    try:
        return int(_OVERFLOW_UID.read_text())
    except OSError:
        return _DEFAULT_OVERFLOW_UID


def can_ask() -> bool:
    """Return True if the kernel tells us that a connection of our own is ours."""
    with (
        socket.create_server((HOST, 0)) as server,
        socket.create_connection(server.getsockname(), _WITHIN_S) as client,
    ):
        try:
            own = uid_of(f"ipv4:{HOST}:{client.getsockname()[1]}", server.getsockname()[1])
        except OSError:
            return False
    return own == os.geteuid()
