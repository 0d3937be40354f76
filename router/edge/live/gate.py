"""Access to the live page's data: an admin's token where tokens are asked for."""

from urllib.parse import urlsplit
from wsgiref.types import WSGIEnvironment

from common.rpc.bearer import token_of
from pdserve.errors import PermissionDeniedError
from router.access.server_security import ServerSecurity, is_loopback
from router.access.tenant import Tenant


class Gate:
    """The rule of the admin API, for HTTP requests."""

    def __init__(self, security: ServerSecurity) -> None:
        self._security = security

    def admit(self, environ: WSGIEnvironment) -> Tenant:
        """Return the admin who asks. Raises UnauthenticatedError, PermissionDeniedError."""
        self._check_host(environ)
        tenant = self._security.authorize(token_of(environ.get("HTTP_AUTHORIZATION", "")))
        if not tenant.is_admin:
            raise PermissionDeniedError(
                f"the live page is for admins; tenant {tenant.name} is a user"
            )
        return tenant

    def _check_host(self, environ: WSGIEnvironment) -> None:
        """Refuse a name of elsewhere where only this machine may call.

        A browser would let in a web site that has its own name point to this machine.
        """
        host = environ.get("HTTP_HOST", "")  # browsers send it always
        if host and self._security.is_local and not is_loopback(_hostname(host)):
            raise PermissionDeniedError(
                "this router serves its own machine: open the page by localhost or 127.0.0.1"
            )


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
