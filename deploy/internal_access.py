"""Proof by which routers and workers of one deployment know each other, made when it starts.

Workers share one certificate and routers another, of an authority whose key is forgotten at once. So nobody
can issue a third one. They are kept in memory alone, and last longer than any deployment.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.certificates import Certificates, PemFiles, Pems, WorkerAccess
from common.config import SecurityConfig, ServeConfig
from common.rpc.internal_tls import NAME

_LASTS = timedelta(days=3650)
_CLOCKS_DIFFER_BY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DeploymentAccess:
    """What a deployment's workers and routers show each other."""

    worker: WorkerAccess
    router: WorkerAccess


def new_access(config: ServeConfig) -> DeploymentAccess:
    """Return a new token, and certificates where TLS is on. Raises SetupError if given files are unfit."""
    token = secrets.token_urlsafe(32)
    worker, router = (WorkerAccess(token, shown) for shown in _certificates(config))
    worker.check()  # unfit files are refused before anything starts
    return DeploymentAccess(worker, router)


def _certificates(config: ServeConfig) -> tuple[Certificates | None, Certificates | None]:
    if config.security.internal_tls == "files":
        files = _files(config.security)
        return files, files
    # workers of a private Ray listen on loopback, where nobody else can listen in
    is_local = config.ray_address is None
    return (None, None) if is_local or config.security.internal_tls == "off" else make_pair()


def _files(security: SecurityConfig) -> PemFiles:
    paths = security.internal_key_file, security.internal_cert_file, security.internal_ca_file
    key, chain, authority = paths
    if key is None or chain is None or authority is None:
        raise ValueError("the configuration has checked that there are three files")
    return PemFiles(key, chain, authority)


def make_pair() -> tuple[Pems, Pems]:
    """Return certificates for workers, which only serve with them, and for routers, which only call."""
    # a private deployment has no use for it
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority_key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pdserve deployment")])
    now = datetime.now(UTC)

    def issue(
        subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> bytes:
        made = x509.CertificateBuilder(
            issuer,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - _CLOCKS_DIFFER_BY,
            now + _LASTS,
        )
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        return made.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority = issue(issuer, authority_key, x509.BasicConstraints(ca=True, path_length=0))

    def leaf(usage: x509.ObjectIdentifier) -> Pems:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        named = x509.SubjectAlternativeName([x509.DNSName(NAME)])
        return Pems(pem, issue(subject, key, named, x509.ExtendedKeyUsage([usage])), authority)

    return leaf(ExtendedKeyUsageOID.SERVER_AUTH), leaf(ExtendedKeyUsageOID.CLIENT_AUTH)
