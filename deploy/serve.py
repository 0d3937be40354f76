"""Serving process of `pdserve serve`: a deployment and its router, until a signal."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import ServeConfig
from common.telemetry.logs import configure_logs
from common.telemetry.tracing.build import check_tracing, make_tracing
from common.uninterrupted import uninterrupted
from deploy.deployment import Deployment
from deploy.endpoints import Endpoints, endpoints_of
from deploy.fleet import DeploymentFleet
from deploy.head_watch import until_ray_is_lost
from deploy.membership_feed import MembershipFeed
from deploy.ray_session import start_ray, stop_ray
from deploy.remote_supervisor import RemoteSupervisor, find_supervisor
from deploy.signals import EndSignals
from deploy.starting import StartReport
from deploy.supervisor_actor import Facts
from deploy.versions import check_router
from pdserve.errors import PreconditionError, RayLostError, SetupError
from router.access.server_security import ServerSecurity
from router.edge.ports import check_port
from router.workers.membership import Membership

if TYPE_CHECKING:
    from router.intake.tokenizer import Tokenizer

FindModel = Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class _Site:
    """All that a router of a deployment needs; the settings are this process's own."""

    config: ServeConfig
    facts: Facts
    supervisor: RemoteSupervisor
    model_dir: Path
    tokenizer: "Future[Tokenizer]"


@contextlib.asynccontextmanager
async def running(
    config: ServeConfig, model_name: str, model_dir: Path, report: StartReport
) -> AsyncIterator[Endpoints]:
    """Run a deployment with its router; stop everything on exit, even after an error."""
    security = _make_security(config)
    deployment, tokenizer = Deployment(config, model_name, model_dir), _prepare_router(model_dir)
    try:
        membership = await _start(deployment, report)
        report.now("connecting the router")
        site = _Site(config, deployment.facts, deployment.supervisor, model_dir, tokenizer)
        async with _routing(site, membership, security) as endpoints:
            yield endpoints
    except RayLostError:
        deployment.forget_workers()
        raise
    finally:
        deployment.abort()  # gives up a start that still runs
        await uninterrupted(asyncio.to_thread(deployment.stop))


@contextlib.asynccontextmanager
async def joined(config: ServeConfig, find_model: FindModel) -> AsyncIterator[Endpoints]:
    """Run one more router of a running deployment, which goes on after it. Raises SetupError."""
    security = _make_security(config)
    try:
        supervisor, facts, membership = await asyncio.to_thread(_join, config)
        model_dir = await asyncio.to_thread(find_model, facts.config.model)
        site = _Site(config, facts, supervisor, model_dir, _prepare_router(model_dir))
        async with _routing(site, membership, security) as endpoints:
            yield endpoints
    finally:
        await uninterrupted(asyncio.to_thread(stop_ray))


def _join(config: ServeConfig) -> tuple[RemoteSupervisor, Facts, Membership]:
    start_ray(config, 0)
    handle = find_supervisor(config.namespace)
    if handle is None:
        raise SetupError(
            f"no deployment runs in namespace '{config.namespace}'",
            "start one with `pdserve serve`, or give its --namespace",
        )
    try:
        facts = RemoteSupervisor(handle, config).facts()
        check_router(facts.versions)
        supervisor = RemoteSupervisor(handle, facts.config)
        return supervisor, facts, supervisor.await_serving()
    except PreconditionError as error:
        raise SetupError(error.message) from error


def _prepare_router(model_dir: Path) -> "Future[Tokenizer]":
    """Begin what a router needs before it knows its workers: Ray and they take longer."""
    background = ThreadPoolExecutor(1, "router")
    try:
        return background.submit(_read_tokenizer, model_dir)
    finally:
        background.shutdown(wait=False)


def _read_tokenizer(model_dir: Path) -> "Tokenizer":
    import router.app  # noqa: F401 - half a second of a core, here and not at the end
    from router.intake.tokenizer import Tokenizer

    return Tokenizer(model_dir)


@contextlib.asynccontextmanager
async def _routing(
    site: _Site, membership: Membership, security: ServerSecurity
) -> AsyncIterator[Endpoints]:
    """Run a router that follows the supervisor."""
    config, facts, feed = site.config, site.facts, None
    tokenizer = await asyncio.wrap_future(site.tokenizer)
    from router.app import Router

    facts.access.router.check()
    router = Router(
        facts.model_name,
        site.model_dir,
        [member.address for member in membership.members if member.address],
        config.router_settings,
        DeploymentFleet(site.supervisor),
        security,
        facts.access.router,
        make_tracing(config.telemetry, config.namespace, facts.model_name),
        tokenizer,
    )
    try:
        grpc_port = await router.start(
            config.grpc_host, config.grpc_port, config.http_port, config.start_timeout_s
        )
        gc.freeze()  # what the start made stays: else full collections hold all streams up for 0.1 s
        feed = MembershipFeed(site.supervisor.await_news, router.follow)
        feed.start()
        endpoints = endpoints_of(router, config, grpc_port, facts.model_name)
        if config.openai_port is not None:
            openai_port = await router.serve_openai(config.grpc_host, config.openai_port)
            endpoints = replace(endpoints, openai_port=openai_port)
        yield endpoints
    finally:
        try:
            await router.stop(config.drain_timeout_s)
        finally:
            if feed is not None:
                await feed.close()


def _make_security(config: ServeConfig) -> ServerSecurity:
    """Find out what can be refused before anything starts. Raises SetupError."""
    check_tracing(config.telemetry)
    security = ServerSecurity(config.security)
    security.check(config.grpc_host)
    host, is_shared = config.grpc_host, config.router.share_ports
    check_port(host, "grpc_port", config.grpc_port, is_shared=is_shared)
    check_port(host, "openai_port", config.openai_port or 0, is_shared=is_shared)
    check_port(host, "http_port", config.http_port)
    return security


async def _start(deployment: Deployment, report: StartReport) -> Membership:
    """Start in a thread; a cancellation waits until the thread has ended."""
    starting = asyncio.ensure_future(asyncio.to_thread(deployment.start, report))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        deployment.abort()
        with contextlib.suppress(SetupError):
            await uninterrupted(starting)
        raise


async def serve(
    config: ServeConfig,
    model_name: str,
    model_dir: Path,
    report: StartReport,
    on_ready: Callable[[Endpoints], None],
) -> None:
    """Serve until SIGINT or SIGTERM, which also end a start-up. Raises SetupError."""
    await _until_a_signal(running(config, model_name, model_dir, report), on_ready)


async def join(
    config: ServeConfig, find_model: FindModel, on_ready: Callable[[Endpoints], None]
) -> None:
    """Serve a running deployment until SIGINT or SIGTERM. Raises SetupError.

    `find_model(name)` returns the folder of the deployment's model on this machine.
    """
    await _until_a_signal(joined(config, find_model), on_ready)


async def _until_a_signal(
    serving: contextlib.AbstractAsyncContextManager[Endpoints],
    on_ready: Callable[[Endpoints], None],
) -> None:
    configure_logs(process="router")
    main = asyncio.current_task()
    if main is None:
        raise RuntimeError("serving needs a task that signals can end")
    signals = EndSignals(main)
    signals.install()
    try:
        async with serving as endpoints:
            signals.settle()
            on_ready(endpoints)
            await until_ray_is_lost()
    except asyncio.CancelledError:
        return
    finally:
        signals.settle()
