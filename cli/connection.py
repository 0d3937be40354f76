"""Connection options, the same for all client commands."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pdserve.client import AsyncClient
from pdserve.errors import SetupError

DEFAULT_ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Connection:
    """Address of the router, and the client's credentials."""

    address: str = DEFAULT_ADDRESS
    token: str | None = None
    root_certificates: bytes | None = None
    client_certificate: tuple[bytes, bytes] | None = None

    def client(self) -> AsyncClient:
        """Return a client of this router."""
        return AsyncClient(
            self.address,
            token=self.token,
            root_certificates=self.root_certificates,
            client_certificate=self.client_certificate,
        )


def _options(
    address: Annotated[
        str, typer.Option(help="The router's gRPC address; several with commas")
    ] = DEFAULT_ADDRESS,
    token: Annotated[
        str | None, typer.Option(envvar="PDSERVE_TOKEN", help="Names us; better in the variable")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="TLS: the authority of the router's certificate, PEM")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="TLS: a certificate of ours, PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="TLS: its private key, PEM")] = None,
) -> Connection:
    if (tls_cert is None) != (tls_key is None):
        raise SetupError("--tls-cert and --tls-key need each other")
    if token is not None and not (token.isascii() and token.isprintable() and token):
        raise SetupError("--token holds what no token does", "see `pdserve token create`")
    certificate = (_read(tls_key), _read(tls_cert)) if tls_key and tls_cert else None
    return Connection(address, token, _read(tls_ca) if tls_ca else None, certificate)


def reaches_router(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `connection` by the options of a connection."""

    @functools.wraps(command)
    def run(**values: object) -> None:
        ours = {name: values.pop(name) for name in names}
        command(**values, connection=_options(**ours))  # type: ignore[arg-type]  # typer has checked

    names = inspect.signature(_options).parameters
    theirs = inspect.signature(command).parameters
    kept = [parameter for name, parameter in theirs.items() if name != "connection"]
    shown = [*kept, *names.values()]
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shown]
    run.__dict__["__signature__"] = inspect.Signature(keyword_only)
    run.__annotations__ = {p.name: p.annotation for p in shown}
    return run


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}") from error
