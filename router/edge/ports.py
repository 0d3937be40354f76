"""Ports that the router's servers bind."""

import socket

from pdserve.errors import SetupError


def bind(host: str, key: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a socket bound as servers bind theirs; `port` 0 takes any free one.

    A port in TIME_WAIT is free, one with a listener is not. Sockets of one port share its connections
    if all have `is_shared`. Raises SetupError, which names the setting `key`, when the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once only where the protocol is named: else a body waits 40 ms behind its head
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise not_free(host, key, port, error) from error
    return bound


def check_port(host: str, key: str, port: int, *, is_shared: bool = False) -> None:
    """Raise SetupError, naming the setting, when the port cannot be bound now; 0 is always free."""
    bind(host, key, port, is_shared=is_shared).close()


def not_free(host: str, key: str, port: int, error: OSError) -> SetupError:
    """Return the error for a port that cannot be bound."""
    message = f"{key} {port} on {host} is not free: {error.strerror}"
    return SetupError(message, "choose another")
