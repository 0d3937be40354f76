"""The command `pdserve router`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.model import progress_bars
from cli.serve import read_flags, ready_lines
from cli.settings import load_config
from common.cache_dir import default_cache_dir
from common.config import ServeConfig
from common.engine.weights.resolve import resolve_model
from pdserve.errors import SetupError
from router.access.server_security import ServerSecurity

if TYPE_CHECKING:
    from deploy.serve import Endpoints


def command(
    context: typer.Context,
    ray_address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="The deployment's Ray")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="The deployment's name in its Ray")] = None,
    grpc_host: Annotated[str | None, typer.Option(help="Interface to listen on")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port; 0: any free one")] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of /healthz, /readyz, /metrics; 0: any free one")
    ] = None,
    openai_port: Annotated[
        int | None, typer.Option(help="Port of the OpenAI API; unset: off; 0: any free one")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Choice of workers: cost, least_loaded, round_robin, local")
    ] = None,
    access_file: Annotated[
        Path | None, typer.Option(help="Who may call; see `pdserve token create`")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let anybody call, also beyond loopback")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any setting")] = None,
) -> None:
    """Join a deployment that runs on a Ray cluster with one more router, until interrupted."""
    _join(load_config(config, read_flags(context.params)))


def _join(settings: ServeConfig) -> None:
    if settings.ray_address is None:
        raise SetupError(
            "ray_address is not set", "give --ray-address, or serve with `pdserve serve`"
        )
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
