"""TLS of the gRPC port.

On request only clients with a certificate of a given authority may connect.
"""

import ssl
from pathlib import Path

import grpc

from common.certificates import read_pems
from common.config import SecurityConfig
from common.reloading import Reloading
from common.rpc.renewed_tls import renewed_credentials

_NAMES = "security.tls_cert_file, tls_key_file and tls_client_ca_file"


class ServerCertificates:
    """The files of `security.tls_*`.

    New connections get the newest contents; open ones keep theirs.
    """

    def __init__(self, certificate: Path, key: Path, client_authority: Path | None) -> None:
        """Read the files. Raises SetupError."""
        paths = [certificate, key] + ([client_authority] if client_authority else [])
        self._files = Reloading(
            paths, lambda: read_pems(certificate, key, client_authority, _NAMES)
        )
        self._certificate, self._key = certificate, key
        self._renewed = self._files.current()
        self._contexts: list[ssl.SSLContext] = []
        self._needs_client = client_authority is not None

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for `grpc.aio.Server.add_secure_port`."""
        return renewed_credentials(self._files, needs_client=self._needs_client)

    def https_context(self) -> ssl.SSLContext:
        """Return a context for HTTPS, which `renew` keeps up to date. It asks for no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key)
        self._contexts.append(context)
        return context

    def renew(self) -> None:
        """Have HTTPS use newer files, if there are any, from the next handshake on."""
        if self._files.current() is self._renewed:
            return
        self._renewed = self._files.current()
        for context in self._contexts:
            context.load_cert_chain(self._certificate, self._key)


def server_certificates(config: SecurityConfig) -> ServerCertificates | None:
    """Return the certificates of a configuration, None without TLS. Raises SetupError."""
    certificate, key = config.tls_cert_file, config.tls_key_file
    if certificate is None or key is None:
        return None
    return ServerCertificates(certificate, key, config.tls_client_ca_file)
