"""Certificate authority for tests, and files of the certificates that it issues."""

import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

_SECONDS = count(1)


def touch_later(file: Path) -> None:
    """Advance a new file's date: two writes within a tick of the clock may look like one."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + next(_SECONDS) * 10**9))


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate chain and its private key, PEM."""

    chain: Path
    key: Path

    def contents(self) -> tuple[bytes, bytes]:
        """Return (key, chain), as clients take them."""
        return self.key.read_bytes(), self.chain.read_bytes()

    def encrypt_key(self, password: bytes) -> None:
        """Encrypt the key's file with a password."""
        key = load_pem_private_key(self.key.read_bytes(), None)
        how = BestAvailableEncryption(password)
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))


class Authority:
    """Issuer of certificates that name hosts, IP addresses or mail addresses."""

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self.pem: bytes = self._authority.cert_pem.bytes()

    def issue(self, files: Path, *names: str) -> Pair:
        """Return a certificate for these names, in files whose names begin with `files`."""
        issued = self._authority.issue_cert(*names)
        pair = Pair(files.with_suffix(".crt"), files.with_suffix(".key"))
        pair.key.write_bytes(issued.private_key_pem.bytes())
        pair.chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        for file in (pair.key, pair.chain):
            touch_later(file)
        return pair

    def write(self, file: Path) -> Path:
        """Write the authority's own certificate."""
        file.write_bytes(self.pem)
        return file
