"""The command `pdserve router`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import setting_flags as flags
from cli.model import progress_bars
from cli.serve import read_flags, ready_lines
from cli.settings import load_config
from common.cache_dir import default_cache_dir
from common.config import ServeConfig
from common.engine.weights.resolve import resolve_model
from common.telemetry.tracing.build import check_tracing
from pdserve.errors import SetupError
from router.access.server_security import ServerSecurity

if TYPE_CHECKING:
    from deploy.endpoints import Endpoints


def command(
    context: typer.Context,
    ray_address: flags.DeploymentRay = None,
    namespace: flags.Namespace = None,
    grpc_host: flags.GrpcHost = None,
    grpc_port: flags.GrpcPort = None,
    http_port: flags.HttpPort = None,
    openai_port: flags.OpenaiPort = None,
    policy: flags.Policy = None,
    share_ports: flags.SharePorts = None,
    metrics_compat: flags.MetricsCompat = None,
    access_file: flags.AccessFile = None,
    insecure: flags.Insecure = None,
    config: flags.ConfigFile = None,
) -> None:
    """Join a deployment that runs on a Ray cluster with one more router, until interrupted."""
    _join(load_config(config, read_flags(context.params)))


def _join(settings: ServeConfig) -> None:
    if settings.ray_address is None:
        raise SetupError(
            "ray_address is not set", "give --ray-address, or serve with `pdserve serve`"
        )
    check_tracing(settings.telemetry)
    ServerSecurity(settings.security).check(settings.grpc_host)
    # ray takes a second to import, and `pdserve --help` does not need it
    from deploy.serve import join

    def ready(endpoints: "Endpoints") -> None:
        scheme = "https" if settings.security.tls_cert_file else "http"
        print(ready_lines(endpoints.model, endpoints, scheme), flush=True)

    asyncio.run(join(settings, _find_model, ready))


def _find_model(name: str) -> Path:
    """Return the folder of the deployment's model on this machine, fetched if need be."""
    with progress_bars() as progress:
        return resolve_model(name, default_cache_dir(), progress).path
