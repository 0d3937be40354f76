"""An authority that issues the certificates of one deployment, for routers and workers."""

import secrets
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.certificates import Pems
from common.rpc.internal_tls import NAME

SERVES, CALLS = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH

_LASTS = timedelta(days=3650)  # longer than any deployment
_CLOCKS_DIFFER_BY = timedelta(days=1)
_PEM = serialization.Encoding.PEM


class CertificateAuthority:
    """Issues certificates. Its key is in this object alone: once that is gone, nobody issues another."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"pdserve deployment {secrets.token_hex(8)}")
        is_authority = x509.BasicConstraints(ca=True, path_length=0)
        self._pem = self._sign(self._name, self._key.public_key(), is_authority)

    def issue(self, usage: x509.ObjectIdentifier) -> Pems:
        """Return a certificate that either SERVES or CALLS, for NAME, with its key and this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
        usages = x509.ExtendedKeyUsage([usage])
        chain = self._sign(_named(NAME), key.public_key(), names, usages)
        plain = serialization.NoEncryption()
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain)
        return Pems(private, chain, self._pem)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> bytes:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS_DIFFER_BY)
            .not_valid_after(now + _LASTS)
        )
        for extension in extensions:
            is_critical = isinstance(extension, x509.BasicConstraints)
            made = made.add_extension(extension, critical=is_critical)
        return made.sign(self._key, hashes.SHA256()).public_bytes(_PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
