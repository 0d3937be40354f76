"""Standard gRPC health (grpc.health.v1), which always agrees with /readyz."""

import asyncio
from collections.abc import Callable, Sequence

from grpc_health.v1 import health, health_pb2

_POLL_S = 0.1
_Status = health_pb2.HealthCheckResponse


class HealthReport:
    """Reports SERVING for every service while the router can serve, and NOT_SERVING otherwise."""

    def __init__(self, can_serve: Callable[[], bool]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._can_serve = can_serve
        self._reported: bool | None = None

    async def follow(self, services: Sequence[str]) -> None:
        """Report again and again, until cancelled. `services` are the names to report for."""
        while True:
            await self.report(services)
            await asyncio.sleep(_POLL_S)

    async def report(self, services: Sequence[str]) -> None:
        """Report what is true now, for the whole server ("") and each service."""
        is_serving = self._can_serve()
        if is_serving is self._reported:
            return
        self._reported = is_serving
        status = _Status.SERVING if is_serving else _Status.NOT_SERVING
        for name in ("", *services):
            await self.servicer.set(name, status)
