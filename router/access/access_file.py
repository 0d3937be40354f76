"""The access file, which says what token or certificate belongs to what tenant.

Each line is `TENANT ROLE CREDENTIAL`; blank lines and lines that begin with # are skipped:

    acme user sha256:<64 hex digits: SHA-256 of the token>
    acme user san:client.acme.example
    ops admin sha256:...

Tokens carry 256 random bits, so a plain hash is enough: no dictionary contains one.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pdserve.errors import SetupError
from router.access.tenant import Tenant

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"sha256:([0-9a-f]{64})")
_SAN = re.compile(r"san:(\S+)")
_ROLES = {"user": False, "admin": True}
_TOKEN_PREFIX = "pds_"  # noqa: S105 - lets scanners for leaked secrets know one


@dataclass(frozen=True, slots=True)
class AccessList:
    """Content of an access file: hashes of tokens, and subject alternative names of certificates."""

    tokens: tuple[tuple[bytes, Tenant], ...]
    names: dict[str, Tenant]

    def by_token(self, token: bytes) -> Tenant | None:
        """Return the tenant of a token, if it is known. Compares every hash, in constant time."""
        digest = sha256(token).digest()
        found = None
        for known, tenant in self.tokens:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found

    def by_names(self, names: Iterable[str]) -> Tenant | None:
        """Return the tenant of the first certificate name that is known."""
        return next((self.names[name] for name in names if name in self.names), None)


def read_access(path: Path) -> AccessList:
    """Parse an access file. Raises SetupError with the line's number, never with what it holds."""
    tokens: dict[bytes, Tenant] = {}
    names: dict[str, Tenant] = {}
    _read_lines(path, lambda line: _read_line(line, tokens, names))
    if not tokens and not names:
        remedy = "make one with `pdserve token create`"
        raise SetupError(f"access file {path} names nobody", remedy)
    return AccessList(tuple(tokens.items()), names)


def _read_lines(path: Path, take: Callable[[str], None]) -> None:
    """Give `take` every line that is neither blank nor a comment;

    `take` raises ValueError for a bad line.

    Raises SetupError with the line's number, never with what it holds.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise SetupError(f"access file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"access file {path} is not UTF-8 text") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                take(line)
            except ValueError as error:
                raise SetupError(f"access file {path} line {number}: {error}") from None


def _read_line(line: str, tokens: dict[bytes, Tenant], names: dict[str, Tenant]) -> None:
    try:
        name, role, credential = line.split()
        tenant = Tenant(name, is_admin=_ROLES[role])
    except (ValueError, KeyError):
        raise ValueError("it is not TENANT user|admin CREDENTIAL") from None
    check_tenant_name(name)
    token, san = _TOKEN.fullmatch(credential), _SAN.fullmatch(credential)
    if token is None and san is None:
        raise ValueError("the credential is neither sha256:<64 hex digits> nor san:<name>")
    if (token and bytes.fromhex(token[1]) in tokens) or (san and san[1] in names):
        raise ValueError("an earlier line has the same credential")
    if token:
        tokens[bytes.fromhex(token[1])] = tenant
    if san:
        names[san[1]] = tenant


def check_tenant_name(name: str) -> None:
    """Raise ValueError unless it is 1 to 64 of [A-Za-z0-9._-], the first a letter or digit."""
    if not _TENANT.fullmatch(name):
        raise ValueError("a tenant is 1 to 64 of [A-Za-z0-9._-] and begins with a letter or digit")


def make_token() -> str:
    """Return a new token of 256 random bits."""
    return _TOKEN_PREFIX + secrets.token_urlsafe(32)


def access_line(tenant: Tenant, token: str) -> str:
    """Return the line of an access file that lets the token in."""
    role = "admin" if tenant.is_admin else "user"
    return f"{tenant.name} {role} sha256:{sha256(token.encode()).hexdigest()}"
