"""The command `pdserve serve`."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cli import setting_flags as flags
from cli.model import known_aliases, progress_bars
from cli.settings import Values, load_config
from cli.start_lines import start_lines
from common.cache_dir import default_cache_dir
from common.config import ServeConfig
from common.engine.weights.resolve import ModelSource, resolve_model
from common.machine import has_gpu
from common.telemetry.tracing.build import check_tracing
from deploy.quick_ray import put_off_rarely_used
from deploy.template import running_template
from router.access.server_security import ServerSecurity

if TYPE_CHECKING:
    from deploy.endpoints import Endpoints

# flags whose names differ from their keys
_KEYS = {
    "dtype": "engine.dtype",
    "quantization": "engine.quantization",
    "kv_cache_dtype": "engine.kv_cache_dtype",
    "allow_unused_weights": "engine.allow_unused_weights",
    "policy": "router.policy",
    "share_ports": "router.share_ports",
    "generation_config": "router.generation_config",
    "metrics_compat": "router.metrics_compat",
    "access_file": "security.access_file",
    "insecure": "security.insecure",
    "wait_for_nodes": "cluster.wait_for_nodes_s",
}


def command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            show_default=flags.default_of("model"),
            help="Alias, local folder, GGUF file or hub id",
            autocompletion=known_aliases,
        ),
    ] = None,
    prefill: flags.Prefill = None,
    decode: flags.Decode = None,
    grpc_host: flags.GrpcHost = None,
    grpc_port: flags.GrpcPort = None,
    http_port: flags.HttpPort = None,
    openai_port: flags.OpenaiPort = None,
    dtype: flags.Dtype = None,
    quantization: flags.Quantization = None,
    kv_cache_dtype: flags.KVCacheDtype = None,
    allow_unused_weights: flags.AllowUnusedWeights = None,
    policy: flags.Policy = None,
    share_ports: flags.SharePorts = None,
    generation_config: flags.GenerationConfig = None,
    pin: flags.Pin = None,
    ray_address: flags.RayAddress = None,
    namespace: flags.Namespace = None,
    metrics_compat: flags.MetricsCompat = None,
    wait_for_nodes: flags.WaitForNodes = None,
    access_file: flags.AccessFile = None,
    insecure: flags.Insecure = None,
    config: flags.ConfigFile = None,
) -> None:
    """Serve a model until interrupted."""
    _serve(load_config(config, read_flags(context.params)))


def key_of(parameter: str) -> str:
    """Return the setting that a parameter of the command sets."""
    return _KEYS.get(parameter, parameter)


def read_flags(parameters: Mapping[str, object]) -> Values:
    """Return every flag's value by its setting's key; None if it was not given."""
    return {key_of(name): value for name, value in parameters.items() if name != "config"}


def _serve(settings: ServeConfig) -> None:
    check_tracing(settings.telemetry)
    ServerSecurity(settings.security).check(settings.grpc_host)  # all before a model is fetched
    with progress_bars() as progress:
        source = resolve_model(
            settings.model,
            default_cache_dir(),
            progress,
            keep_quantized=may_keep_quantized(settings),
        )
    with running_template(settings, source.path):
        _run(settings, source)


def _run(settings: ServeConfig, source: ModelSource) -> None:
    put_off_rarely_used()
    # ray takes a second to import, and `pdserve --help` does not need it
    from deploy.endpoints import Endpoints
    from deploy.serve import serve

    def ready(endpoints: Endpoints) -> None:
        lines.stop()
        scheme = "https" if settings.security.tls_cert_file else "http"
        print(ready_lines(source.name, endpoints, scheme), flush=True)

    with start_lines() as lines:
        if source.remark:
            lines.done(source.remark)
        asyncio.run(serve(settings, source.name, source.path, lines, ready))


def may_keep_quantized(settings: ServeConfig) -> bool:
    """Return True if every worker can run a GGUF file's quantized weights: on a CPU, and not rounded anew."""
    engine = settings.engine
    has_cpus = engine.device == "cpu" or (
        engine.device == "auto" and settings.ray_address is None and not has_gpu()
    )
    return has_cpus and engine.quantization == "auto" and engine.fusion == "auto"


def ready_lines(model: str, endpoints: "Endpoints", openai_scheme: str) -> str:
    """Return a line of addresses that scripts wait for, then dtype, KV memory and the live page."""
    host = endpoints.host
    line = (
        f"pdserve ready: model={model} grpc={host}:{endpoints.grpc_port} "
        f"http={host}:{endpoints.http_port}"
    )
    if endpoints.openai_port is not None:
        line += f" openai={openai_scheme}://{host}:{endpoints.openai_port}/v1"
    lines = [f"{line} dtype={endpoints.dtype}", f"{endpoints.dtype}: {endpoints.dtype_reason}"]
    if endpoints.kv_capacity:
        lines.append(f"KV memory of a decode worker: {endpoints.kv_capacity}")
    if endpoints.live_page:
        lines.append(f"live page: {endpoints.live_page}")
    return "\n".join(lines)
