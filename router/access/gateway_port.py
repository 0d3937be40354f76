"""A second gRPC port, on loopback, for the OpenAI gateway that this process started.

smg shows the router neither token nor certificate, so this port asks the kernel for the caller's
user. Only our own user is served, since it could read our memory anyway. The port serves vLLM's
contract alone, for one tenant.
"""

import os
from collections.abc import Callable

import grpc

from common.rpc.channel import SERVER_OPTIONS
from common.rpc.guard import Context, GuardInterceptor
from pdserve.errors import SetupError, UnauthenticatedError
from router.access.local_peer import HOST, can_ask, overflow_uid, uid_of
from router.access.tenant import Tenant, set_current_tenant


class GatewayPort:
    """A server for the gateway's calls. Call all methods on one event loop."""

    def __init__(self, tenant: Tenant, uid: int | None = None) -> None:
        """Count the calls of the user `uid` as the tenant's; None means our own user."""
        self._tenant = tenant
        self._uid = os.geteuid() if uid is None else uid
        self._port = 0
        self._server = grpc.aio.server(
            interceptors=[GuardInterceptor(self._check)], options=SERVER_OPTIONS
        )

    async def start(self, add_service: Callable[[grpc.aio.Server], None]) -> str:
        """Serve what `add_service` adds; return host:port. Raises SetupError."""
        if not can_ask():
            raise SetupError(
                "this system does not tell whose a connection is (sock_diag), and smg cannot say who it is",
                "unset openai_port, or security.access_file and security.tls_cert_file",
            )
        if self._uid == overflow_uid():
            raise SetupError(
                f"users of other containers look like user {self._uid}, who may call for the OpenAI gateway",
                "run as another user, or unset openai_port",
            )
        add_service(self._server)
        self._port = self._server.add_insecure_port(f"{HOST}:0")
        await self._server.start()
        return f"{HOST}:{self._port}"

    async def stop(self, grace_s: float) -> None:
        """End the calls that still run after `grace_s` seconds, and free the port."""
        await self._server.stop(grace_s)

    def _check(self, method: str, context: Context) -> None:
        try:
            uid = uid_of(context.peer(), self._port)
        except OSError:
            uid = None
        if uid != self._uid:
            raise UnauthenticatedError("this port is for the router's own OpenAI gateway")
        set_current_tenant(self._tenant)
