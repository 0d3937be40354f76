"""Standard gRPC health (grpc.health.v1), which agrees with /readyz at every moment."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2

_POLL_S = 0.1
_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse
_Context = grpc.aio.ServicerContext[_Request, _Response]


class HealthReport:
    """Reports SERVING for every service while the router can serve, and NOT_SERVING otherwise."""

    def __init__(self, can_serve: Callable[[], bool], services: Sequence[str]) -> None:
        """Report for `services`, to which names may still be added, and for the whole server."""
        self.servicer = _Servicer(self.report)
        self._can_serve = can_serve
        self._services = services
        self._reported: bool | None = None

    async def follow(self) -> None:
        """Report again and again for those that watch, until cancelled."""
        while True:
            await self.report()
            await asyncio.sleep(_POLL_S)

    async def report(self) -> None:
        """Report what is true now."""
        is_serving = self._can_serve()
        if is_serving is self._reported:
            return
        self._reported = is_serving
        status = _Response.SERVING if is_serving else _Response.NOT_SERVING
        for name in ("", *self._services):
            await self.servicer.set(name, status)


class _Servicer(health.aio.HealthServicer):
    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._refresh = refresh

    async def Check(self, request: _Request, context: _Context) -> _Response:
        """Answer with what is true now, not at the last report."""
        await self._refresh()
        response: _Response = await super().Check(request, context)
        return response
