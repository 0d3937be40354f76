"""Serving process of `pdserve serve`: a deployment and its router, until a signal."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from common.config import ServeConfig
from common.telemetry.logs import configure_logs
from deploy.deployment import Deployment
from deploy.fleet import DeploymentFleet
from deploy.membership_feed import MembershipFeed
from deploy.starting import StartReport
from pdserve.errors import SetupError
from router.access.server_security import ServerSecurity
from router.app import Router
from router.edge.http import check_port
from router.workers.membership import Membership


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of a running deployment."""

    host: str
    grpc_port: int
    http_port: int
    openai_port: int | None = None  # None: no OpenAI API
    dtype: str = ""  # of weights and KV
    dtype_reason: str = ""

    @property
    def grpc_address(self) -> str:
        """The address host:port for gRPC clients on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - a comparison
        return f"{host}:{self.grpc_port}"


@contextlib.asynccontextmanager
async def running(
    config: ServeConfig, model_name: str, model_dir: Path, report: StartReport
) -> AsyncIterator[Endpoints]:
    """Run a deployment with its router; stop everything on exit, even after an error."""
    security = _make_security(config)
    deployment = Deployment(config, model_name, model_dir)
    router = feed = None
    try:
        membership = await _start(deployment, report)
        report.now("connecting the router")
        fleet = DeploymentFleet(deployment.supervisor)
        token = deployment.cluster_token
        settings = config.router_settings
        addresses = [member.address for member in membership.members]
        router = Router(model_name, model_dir, addresses, settings, fleet, security, token)
        grpc_port = await router.start(
            config.grpc_host, config.grpc_port, config.http_port, config.start_timeout_s
        )
        feed = MembershipFeed(deployment.supervisor.await_change, router.follow)
        feed.start()
        endpoints = _endpoints_of(router, config.grpc_host, grpc_port)
        if config.openai_port is not None:
            openai_port = await router.serve_openai(config.grpc_host, config.openai_port)
            endpoints = replace(endpoints, openai_port=openai_port)
        yield endpoints
    finally:
        if router is not None:
            await router.stop(config.drain_timeout_s)
        if feed is not None:
            await feed.close()
        deployment.supervisor.abort()  # gives up a change of the workers that still runs
        await asyncio.to_thread(deployment.stop)


def _endpoints_of(router: Router, host: str, grpc_port: int) -> Endpoints:
    served = router.model_info
    return Endpoints(
        host,
        grpc_port,
        router.http_port,
        dtype=served.dtype,
        dtype_reason=served.dtype_reason,
    )


def _make_security(config: ServeConfig) -> ServerSecurity:
    """Find out what can be refused before anything starts. Raises SetupError."""
    security = ServerSecurity(config.security)
    security.check(config.grpc_host)
    ports = (
        ("grpc_port", config.grpc_port),
        ("http_port", config.http_port),
        ("openai_port", config.openai_port or 0),
    )
    for key, port in ports:
        check_port(config.grpc_host, key, port)
    return security


async def _start(deployment: Deployment, report: StartReport) -> Membership:
    """Start in a thread; a cancellation waits until the thread has ended."""
    starting = asyncio.ensure_future(asyncio.to_thread(deployment.start, report))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        deployment.supervisor.abort()
        with contextlib.suppress(SetupError):
            await starting
        raise


async def serve(
    config: ServeConfig,
    model_name: str,
    model_dir: Path,
    report: StartReport,
    on_ready: Callable[[Endpoints], None],
) -> None:
    """Serve until SIGINT or SIGTERM, which also end a start-up. Raises SetupError."""
    configure_logs(process="router")
    main = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: main and main.cancel())
    try:
        async with running(config, model_name, model_dir, report) as endpoints:
            for number in (signal.SIGINT, signal.SIGTERM):  # replaces ray.init's handlers
                loop.add_signal_handler(number, lambda: main and main.cancel())
            on_ready(endpoints)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        return
