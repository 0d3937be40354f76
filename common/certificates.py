"""Certificates as PEM, and what routers and workers of a deployment show each other. Plain data."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pdserve.errors import SetupError


@dataclass(frozen=True, slots=True)
class Pems:
    """A private key, its certificate chain, and the authority of those on the other side; PEM."""

    key: bytes = field(repr=False)
    chain: bytes
    authority: bytes | None  # None: whoever connects needs no certificate


@dataclass(frozen=True, slots=True)
class PemFiles:
    """Files of a certificate, its key and the authority; every machine of a deployment has its own."""

    key: Path
    chain: Path
    authority: Path

    def read(self) -> Pems:
        """Return what the files hold now. Raises SetupError."""
        names = "security.internal_cert_file, internal_key_file and internal_ca_file"
        return read_pems(self.chain, self.key, self.authority, names)


Certificates = Pems | PemFiles


@dataclass(frozen=True, slots=True)
class WorkerAccess:
    """Proof of belonging to a deployment: its token, and certificates where TLS is on."""

    token: str = field(default="", repr=False)  # "": workers serve whoever connects
    certificates: Certificates | None = None

    def check(self) -> None:
        """Raise SetupError if it names files that are unfit on this machine."""
        if isinstance(self.certificates, PemFiles):
            self.certificates.read()


OPEN = WorkerAccess()


def read_pems(chain: Path, key: Path, authority: Path | None, names: str) -> Pems:
    """Read the files and check that they fit each other: gRPC would find out only at a handshake.

    `names` are the settings that name the files. Raises SetupError.
    """

    def refuse_password() -> NoReturn:
        raise SetupError(f"TLS key {key} is encrypted", "give a key without a password")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key, password=refuse_password)
        if authority is not None:
            context.load_verify_locations(authority)
        trusted = authority.read_bytes() if authority else None
        return Pems(key.read_bytes(), chain.read_bytes(), trusted)
    except OSError as error:  # ssl.SSLError is one
        files = f"{chain}, {key}" + (f", {authority}" if authority else "")
        remedy = f"{names} are PEM files that fit each other"
        raise SetupError(f"TLS files {files}: {error.strerror or error}", remedy) from error
