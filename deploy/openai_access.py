"""Access control of the OpenAI API: client keys and TLS files, given to the gateway at its start.

`openai_keys_file` has a line `NAME KEY` for each client; blank lines and lines that begin with #
are skipped. smg needs the keys themselves, so the file holds them in clear; nobody else should read
it.
"""

import importlib.util
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from common.config import ServeConfig
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError
from router.access.access_file import check_tenant_name, read_lines
from router.access.reloading import Reloading
from router.access.tls import read_pems

_KEY = re.compile(r"[!-~]{16,512}")
_log = get_logger()


@dataclass(frozen=True, slots=True)
class OpenAiAccess:
    """Keys by client name, and the files of certificate chain and private key (None: no TLS).

    `digest` covers the contents of these files, so that a renewed certificate is noticed.
    """

    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    certificate: tuple[Path, Path] | None = None
    digest: bytes = field(default=b"", repr=False)

    def arguments(self) -> list[str]:
        """Return the arguments for `smg launch`; they contain the keys."""
        arguments = [f"--tenant-api-key={name}:{key}" for name, key in self.keys]
        if self.certificate is not None:
            chain, private = self.certificate
            arguments += [f"--tls-cert-path={chain}", f"--tls-key-path={private}"]
        return arguments


def check_usable(config: ServeConfig) -> None:
    """Raise SetupError if openai_port would bypass the router's check of credentials.

    Also raises SetupError if a package of the extra `openai` is missing.
    """
    security = config.security
    if security.access_file and not config.openai_keys_file and not security.insecure:
        raise SetupError(
            "openai_port beside security.access_file needs openai_keys_file: "
            f"without it anybody could call as tenant {config.openai_tenant}",
            "write a line NAME KEY for each client into a file, or pass --insecure",
        )
    for name in ("smg", "smg_grpc_proto"):
        if importlib.util.find_spec(name) is None:
            package = name.replace("_", "-")
            raise SetupError(
                f"openai_port needs the package {package}", "pip install 'pdserve[openai]'"
            )


def openai_access(config: ServeConfig) -> Reloading[OpenAiAccess]:
    """Return the access that the files define, reloaded when one changes. Raises SetupError."""
    keys, security = config.openai_keys_file, config.security
    chain, private = security.tls_cert_file, security.tls_key_file
    files = [file for file in (keys, chain, private) if file is not None]

    def read() -> OpenAiAccess:
        names = _read_keys(keys) if keys else ()
        if chain is None or private is None:
            return OpenAiAccess(names)
        pems = read_pems(chain, private)
        digests = sha256(pems.chain).digest() + sha256(pems.key).digest()
        return OpenAiAccess(names, (chain, private), digests)

    return Reloading(files, read)


def _read_keys(path: Path) -> tuple[tuple[str, str], ...]:
    keys: dict[str, str] = {}
    read_lines("openai_keys_file", path, lambda line: _read_line(line, keys))
    if not keys:
        raise SetupError(
            f"openai_keys_file {path} has no key", "write a line NAME KEY for each client"
        )
    with suppress(OSError):  # the file may have been removed since it was read
        if path.stat().st_mode & 0o007:
            _log.warning("openai_keys_open_to_others", file=str(path), remedy="chmod 600")
    return tuple((name, key) for key, name in keys.items())


def _read_line(line: str, keys: dict[str, str]) -> None:
    try:
        name, key = line.split()
    except ValueError:
        raise ValueError("it is not NAME KEY") from None
    check_tenant_name(name)
    if not _KEY.fullmatch(key):
        raise ValueError("a key is 16 to 512 visible ASCII characters")
    if key in keys:
        raise ValueError("an earlier line has the same key")
    keys[key] = name
