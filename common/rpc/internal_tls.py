"""TLS between routers and workers: both show a certificate of their deployment's authority.

1. The deployment makes the certificates when it starts, or is given files (`security.internal_tls`).
2. A worker serves nobody without such a certificate. Its own one names NAME and no address, since its address
   is known only when it runs.
3. A router asks for that name. Files are read again for each connection, on both sides, so that renewed ones
   need no restart.
"""

import grpc

from common.certificates import Certificates, Pems
from common.reloading import Reloading
from common.rpc.channel import CLIENT_OPTIONS
from common.rpc.renewed_tls import renewed_credentials
from pdserve.errors import SetupError

NAME = "worker.pdserve.internal"
# gRPC's words where the other side of a handshake is none of ours, or speaks no TLS
_UNTRUSTED = (
    "CERTIFICATE_VERIFY_FAILED",
    "certificate signature failure",  # of another authority that has the same name
    "Hostname Verification",
    "WRONG_VERSION_NUMBER",
)


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return a worker's credentials, which ask callers for a certificate. Raises SetupError."""
    if isinstance(certificates, Pems):
        pairs = [(certificates.key, certificates.chain)]
        return grpc.ssl_server_credentials(pairs, certificates.authority, require_client_auth=True)
    paths = [certificates.key, certificates.chain, certificates.authority]
    return renewed_credentials(Reloading(paths, certificates.read), needs_client=True)


def open_channel(address: str, certificates: Certificates | None) -> grpc.aio.Channel:
    """Return a channel to a worker; in clear without certificates.

    Raises ConnectionError if files cannot be read now.
    """
    if certificates is None:
        return grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
    try:
        pems = certificates if isinstance(certificates, Pems) else certificates.read()
    except SetupError as error:
        raise ConnectionError(str(error)) from error
    credentials = grpc.ssl_channel_credentials(pems.authority, pems.key, pems.chain)
    options = [*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", NAME)]
    return grpc.aio.secure_channel(address, credentials, options=options)


def is_untrusted(details: str) -> bool:
    """Return True if an error's details say that the worker showed no certificate of ours."""
    return any(words in details for words in _UNTRUSTED)
