"""Connections of clients to a router."""

import grpc


def open_channel(
    address: str, roots: bytes | None, certificate: tuple[bytes, bytes] | None
) -> grpc.aio.Channel:
    """TLS with PEM roots, or with a certificate (key, chain) of our own; in clear without both."""
    if roots is None and certificate is None:
        return grpc.aio.insecure_channel(address)
    key, chain = certificate or (None, None)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots, key, chain))
