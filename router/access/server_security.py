"""Security of the router's gRPC port: callers, their rights, TLS, and where the port may listen."""

import asyncio
import ipaddress
import ssl

import grpc

from common.config import SecurityConfig
from common.reloading import Reloading
from common.rpc.guard import Check, Context, GuardInterceptor, bearer_token, let_all_in
from common.telemetry.logs import get_logger
from pdserve.errors import PermissionDeniedError, Reason, SetupError, UnauthenticatedError
from router.access.access_file import AccessList, read_access
from router.access.tenant import ANONYMOUS, Tenant, set_current_tenant
from router.access.tls import server_certificates

_OPEN = "/grpc.health.v1.Health/"  # probes have no token, and learn nothing else
_ADMIN = "/pdserve.v1.Admin/"
_LOOK_AGAIN_S = 1.0
_SAN = "x509_subject_alternative_name"
_log = get_logger()


class ServerSecurity:
    """Applies `security.*` of the configuration to a gRPC server."""

    def __init__(self, config: SecurityConfig) -> None:
        """Read all files. Raises SetupError."""
        self._is_insecure = config.insecure
        self._certificates = server_certificates(config)
        self._access = None
        if config.access_file is not None:
            path = config.access_file
            self._access = Reloading([path], lambda: read_access(path))
        self._guard = GuardInterceptor(_check(self._access) if self._access else let_all_in)

    def check(self, host: str) -> None:
        """Raise SetupError when other machines could reach a router that asks for no credentials."""
        if self._access is None and not self._is_insecure and not is_loopback(host):
            raise SetupError(
                f"grpc_host {host} is not loopback and security.access_file is not set: anybody could call",
                "make one with `pdserve token create`, or pass --insecure",
            )

    @property
    def is_local(self) -> bool:
        """True where nobody is asked for credentials, and so only this machine may call."""
        return self._access is None and not self._is_insecure

    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """Return the interceptor that checks the calls of all services."""
        return [self._guard]

    def authorize(self, token: bytes | None) -> Tenant:
        """Return whose a token is; everybody's tenant where nobody is asked. Raises UnauthenticatedError."""
        if self._access is None:
            return ANONYMOUS
        if token is None:
            raise UnauthenticatedError(
                "send `Authorization: Bearer KEY`", reason=Reason.CREDENTIALS_MISSING
            )
        tenant = self._access.current().by_token(token)
        if tenant is None:
            raise UnauthenticatedError("the key is unknown or no longer valid")
        return tenant

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what HTTPS servers need; None where TLS is off. It asks clients for no certificate."""
        return None if self._certificates is None else self._certificates.https_context()

    async def watch(self) -> None:
        """End calls whose token or certificate is taken away, and renew HTTPS' certificate.

        Runs until cancelled.
        """
        seen = self._access.current() if self._access else None
        while self._access is not None or self._certificates is not None:
            await asyncio.sleep(_LOOK_AGAIN_S)
            if self._certificates is not None:
                self._certificates.renew()
            if self._access is not None and self._access.current() is not seen:
                seen = self._access.current()
                self._guard.check_again()

    def bind(self, server: grpc.aio.Server, host: str, port: int) -> int:
        """Listen, and return the port.

        Raises SetupError as `check` does, and when the port is taken.
        """
        self.check(host)
        address = f"{host}:{port}"
        try:
            if self._certificates is not None:
                return server.add_secure_port(address, self._certificates.credentials())
            if self._access is not None and not is_loopback(host):
                _log.warning("tokens_travel_in_clear", remedy="set security.tls_cert_file")
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise SetupError(f"grpc_port {port} on {host} is not free", "choose another") from error


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches the interface.

    The only name that counts is "localhost".
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check(access: Reloading[AccessList]) -> Check:
    def check(method: str, context: Context) -> None:
        if method.startswith(_OPEN):
            return
        tenant = _identify(access.current(), context)
        if method.startswith(_ADMIN) and not tenant.is_admin:
            raise PermissionDeniedError(f"{method} is for admins; tenant {tenant.name} is a user")
        set_current_tenant(tenant)

    return check


def _identify(access: AccessList, context: Context) -> Tenant:
    """Return the tenant by its token if there is one, else by certificate.

    Raises UnauthenticatedError.
    """
    token = bearer_token(context)
    if token is not None:
        tenant = access.by_token(token)
        if tenant is None:
            raise UnauthenticatedError("the token is unknown or no longer valid")
        return tenant
    names = [name.decode("utf-8", "replace") for name in context.auth_context().get(_SAN, ())]
    tenant = access.by_names(names)
    if tenant is None and names:
        raise UnauthenticatedError("the access file has none of the certificate's names")
    if tenant is None:
        raise UnauthenticatedError(
            "send metadata `authorization: Bearer TOKEN`", reason=Reason.CREDENTIALS_MISSING
        )
    return tenant
