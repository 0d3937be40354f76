"""Credentials of a gRPC server from files: new connections get the newest contents, open ones keep theirs."""

import grpc

from common.certificates import Pems
from common.reloading import Reloading


def renewed_credentials(files: Reloading[Pems], *, needs_client: bool) -> grpc.ServerCredentials:
    """Return credentials that read the files again when they change.

    With `needs_client` only clients with a certificate of the files' authority may connect.
    """
    used = files.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Return new contents, if any; gRPC calls this before each handshake, on its own thread."""
        nonlocal used
        if files.current() is used:
            return None
        used = files.current()
        return _configuration(used)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        fetch,  # type: ignore[arg-type]  # gRPC documents that None means no change
        needs_client,
    )


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.authority)
