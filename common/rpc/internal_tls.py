"""TLS between routers and workers: both show a certificate of their deployment's authority.

1. The deployment makes the certificates when it starts, or is given files (`security.internal_tls`).
2. A worker serves nobody without such a certificate. Its own one names NAME and no address, since its address
   is known only when it runs.
3. A router asks for that name. Files are read again for each connection, on both sides, so that renewed ones
   need no restart.
"""

import grpc

from common.certificates import Certificates, PemFiles, Pems
from common.rpc.channel import CLIENT_OPTIONS
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

NAME = "worker.pdserve.internal"
# gRPC's words where the other side of a handshake is none of ours, or speaks no TLS
_UNTRUSTED = (
    "CERTIFICATE_VERIFY_FAILED",
    "certificate signature failure",  # of another authority that has the same name
    "Hostname Verification",
    "WRONG_VERSION_NUMBER",
)
_log = get_logger()


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return a worker's credentials, which ask callers for a certificate. Raises SetupError."""
    if isinstance(certificates, Pems):
        pairs = [(certificates.key, certificates.chain)]
        return grpc.ssl_server_credentials(pairs, certificates.authority, require_client_auth=True)
    return _Renewed(certificates).credentials()


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


class _Renewed:
    """Credentials from files, whose newest contents are for the next connection."""

    def __init__(self, files: PemFiles) -> None:
        self._files = files
        self._used = files.read()

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._used),
            self._fetch,  # type: ignore[arg-type]  # gRPC documents that None means no change
            True,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new contents, if any; gRPC calls this before each handshake, on its own thread."""
        try:
            pems = self._files.read()
        except SetupError as error:
            _log.error("files_refused", error=str(error), kept="as it was")
            return None
        if pems == self._used:
            return None
        self._used = pems
        return _configuration(pems)


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.authority)
