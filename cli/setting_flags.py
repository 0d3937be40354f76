"""Flags of `pdserve serve` and `pdserve router` that set a setting; help shows its default."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.settings import get_setting
from common.config import ServeConfig

_DEFAULTS = ServeConfig()


def default_of(key: str) -> str:
    """Return the default of a setting as help shows it; "unset" if there is none."""
    value = get_setting(_DEFAULTS, key)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unset" if value is None else str(value)


def setting(key: str, help_text: str, *names: str, envvar: str | None = None) -> Any:
    """Return an option that is None if not given, with its setting's default in its help."""
    return typer.Option(*names, help=help_text, envvar=envvar, show_default=default_of(key))


Prefill = Annotated[int | None, setting("prefill", "Prefill workers; 0: decode does it")]
Decode = Annotated[int | None, setting("decode", "Decode workers")]
GrpcHost = Annotated[str | None, setting("grpc_host", "Interface to listen on")]
GrpcPort = Annotated[int | None, setting("grpc_port", "gRPC port; 0: any free one")]
HttpPort = Annotated[
    int | None, setting("http_port", "Port of /healthz, /readyz, /metrics; 0: any free one")
]
OpenaiPort = Annotated[
    int | None, setting("openai_port", "Port of the OpenAI API; unset: off; 0: any free one")
]
Dtype = Annotated[str | None, setting("engine.dtype", "auto, float32, bfloat16 or float16")]
Quantization = Annotated[
    str | None, setting("engine.quantization", "auto, none; on a CPU int8 or int4")
]
KVCacheDtype = Annotated[
    str | None,
    setting("engine.kv_cache_dtype", "Keys and values: auto; int8 on a CPU, fp8 on CUDA"),
]
AllowUnusedWeights = Annotated[
    bool | None,
    setting(
        "engine.allow_unused_weights",
        "Serve a folder with tensors that nothing uses",
        "--allow-unused-weights",
    ),
]
Policy = Annotated[
    str | None,
    setting("router.policy", "Choice of workers: cost, least_loaded, round_robin, local"),
]
SharePorts = Annotated[
    bool | None,
    setting(
        "router.share_ports",
        "Let other routers of this machine have the same gRPC and OpenAI ports",
        "--share-ports",
    ),
]
GenerationConfig = Annotated[
    str | None,
    setting("router.generation_config", "auto: sample as the model's makers want by default; off"),
]
MetricsCompat = Annotated[
    str | None, setting("router.metrics_compat", "vllm: metrics also under the names of vLLM; off")
]
Pin = Annotated[str | None, setting("pin", "auto: each worker its own cores; off")]
RayAddress = Annotated[
    str | None,
    setting("ray_address", "Join this Ray; unset: a private one", envvar="RAY_ADDRESS"),
]
DeploymentRay = Annotated[
    str | None, setting("ray_address", "The deployment's Ray; needed", envvar="RAY_ADDRESS")
]
Namespace = Annotated[str | None, setting("namespace", "The deployment's name in its Ray")]
WaitForNodes = Annotated[
    float | None,
    setting(
        "cluster.wait_for_nodes_s", "Seconds that workers may wait for an autoscaler's new nodes"
    ),
]
AccessFile = Annotated[
    Path | None, setting("security.access_file", "Who may call; see `pdserve token create`")
]
Insecure = Annotated[
    bool | None,
    setting("security.insecure", "Let anybody call, also beyond loopback", "--insecure"),
]
ConfigFile = Annotated[
    Path | None, typer.Option(show_default="none", help="YAML file with any setting")
]
