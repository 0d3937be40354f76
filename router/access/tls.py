"""TLS of the gRPC port.

On request only clients with a certificate of a given authority may connect.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from common.config import SecurityConfig
from pdserve.errors import SetupError
from router.access.reloading import Reloading


@dataclass(frozen=True, slots=True)
class Pems:
    """Contents of the certificate files."""

    key: bytes
    chain: bytes
    client_authority: bytes | None


class ServerCertificates:
    """The files of `security.tls_*`.

    New connections get the newest contents; open ones keep theirs.
    """

    def __init__(self, certificate: Path, key: Path, client_authority: Path | None) -> None:
        """Read the files. Raises SetupError."""
        paths = [certificate, key] + ([client_authority] if client_authority else [])
        self._files = Reloading(paths, lambda: read_pems(certificate, key, client_authority))
        self._certificate, self._key = certificate, key
        self._used = self._renewed = self._files.current()
        self._contexts: list[ssl.SSLContext] = []
        self._needs_client = client_authority is not None

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for `grpc.aio.Server.add_secure_port`."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._used),
            self._fetch,  # type: ignore[arg-type]  # gRPC documents that None means no change
            self._needs_client,
        )

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

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new contents, if any; gRPC calls this before each handshake, on its own thread."""
        pems = self._files.current()
        if pems is self._used:
            return None
        self._used = pems
        return _configuration(pems)


def server_certificates(config: SecurityConfig) -> ServerCertificates | None:
    """Return the certificates of a configuration, None without TLS. Raises SetupError."""
    certificate, key = config.tls_cert_file, config.tls_key_file
    if certificate is None or key is None:
        return None
    return ServerCertificates(certificate, key, config.tls_client_ca_file)


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    pairs = [(pems.key, pems.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, pems.client_authority)


def read_pems(certificate: Path, key: Path, client_authority: Path | None = None) -> Pems:
    """Read the files and check that they fit each other: gRPC would find out only at a handshake.

    Raises SetupError.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=_no_password)
        if client_authority is not None:
            context.load_verify_locations(client_authority)
        authority = client_authority.read_bytes() if client_authority else None
        return Pems(key.read_bytes(), certificate.read_bytes(), authority)
    except OSError as error:  # ssl.SSLError is one
        what = f"{certificate}, {key}" + (f", {client_authority}" if client_authority else "")
        raise SetupError(
            f"TLS files {what}: {error.strerror or error}",
            "security.tls_cert_file, tls_key_file and tls_client_ca_file are PEM files that fit each other",
        ) from error


def _no_password() -> str:
    raise SetupError("security.tls_key_file is encrypted", "give a key without a password")
