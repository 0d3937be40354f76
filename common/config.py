"""All settings, as frozen objects built once at the entry point (flag > PDSERVE_* > file > default)."""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from common.auto_setting import AutoContext, AutoCount, AutoSize
from common.certificates import Certificates, WorkerAccess
from common.frozen import Frozen
from common.router_config import RouterConfig
from common.telemetry_config import TelemetryConfig

StoredDtype = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["auto", StoredDtype]
Rounding = Literal["int8", "int4"]
Quantization = Literal["auto", "none", Rounding]
KVCacheDtype = Literal["auto", "int8", "fp8"]
FP8_ON_A_CPU = "set it to int8; to try fp8 without a GPU, set engine.attention_backend to reference"
Backend = Literal["auto", "cpu", "flash", "reference"]
MAX_PREFILL_WORKERS = 1024
MAX_DECODE_WORKERS = 256
Port = Annotated[int, Field(ge=0, le=65535)]


class EngineConfig(Frozen):
    """Settings of one worker's engine."""

    dtype: Dtype = Field(
        "auto",
        description="Of weights and KV. auto: on CUDA the checkpoint's, on a CPU what it computes fastest",
    )
    quantization: Quantization = Field(
        "auto",
        description="Weights as small integers, on a CPU. auto: where the files have them so",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention_backend: Backend = "auto"
    fusion: Literal["auto", "off"] = Field(
        "auto", description="off: run transformers' own modules, also for families we can fuse"
    )
    allow_unused_weights: bool = Field(
        False, description="Serve a model although its folder holds tensors that nothing uses"
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto", description="Capture decode steps at the start and replay them, on CUDA"
    )
    block_size: int | None = Field(
        None, ge=1, le=256, description="Token positions in a KV block; 16 on a CPU, 256 on CUDA"
    )
    prefix_cache: Literal["auto", "off"] = Field(
        "auto", description="Share the KV of prompts that begin alike"
    )
    max_context_tokens: AutoContext = Field(
        "auto", description="Longest prompt and output together; auto: as long as the model's"
    )
    kv_cache_gib: AutoSize = Field(
        "auto", description="Memory for KV blocks, GiB; auto: from what the worker may use"
    )
    kv_cache_dtype: KVCacheDtype = Field(
        "auto",
        description="Of keys and values in blocks. auto: dtype; 8 bits: int8 on a CPU, fp8 on CUDA",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of a GPU's free memory that kv_cache_gib: auto takes"
    )
    max_batch_tokens: AutoCount = Field(
        "auto", description="Tokens a step may run; cuts long prompts"
    )
    max_num_seqs: AutoCount = Field("auto", description="Sequences in the running batch")
    itl_target_s: float | None = Field(
        None, gt=0, description="Decode steps are kept within this time; unset: as they come"
    )
    ttft_target_s: float | None = Field(
        None, gt=0, description="Prompts that can begin to answer within it go first; unset: none"
    )
    preemption: Literal["auto", "swap", "recompute"] = Field(
        "auto", description="Under KV pressure; auto: the cheaper of the two for each sequence"
    )
    swap_gib: float = Field(1.0, ge=0, description="Host memory for preempted KV, GiB")
    watermark: float = Field(0.02, ge=0, lt=1, description="Share of blocks kept free on admission")

    @model_validator(mode="after")
    def _quantize_the_fused_pass_alone(self) -> Self:
        is_rounded = self.quantization in get_args(Rounding)
        if is_rounded and (self.fusion == "off" or self.device == "cuda"):
            other = "fusion: off" if self.fusion == "off" else "device: cuda"
            raise ValueError(f"quantization: {self.quantization} does not go with {other}")
        return self

    @field_validator("kv_cache_dtype", mode="before")
    @classmethod
    def _refuse_other_fp8_by_name(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("fp8_"):
            raise ValueError(f"{value} is not supported; fp8 is E4M3 with a scale a head")
        return value

    @model_validator(mode="after")
    def _quantize_kv_as_the_device_reads_it(self) -> Self:
        kind, device = self.kv_cache_dtype, self.device
        if kind == "int8" and device == "cuda":
            raise ValueError(f"kv_cache_dtype: {kind} does not go with device: {device}; take fp8")
        if kind == "fp8" and device == "cpu" and self.attention_backend != "reference":
            raise ValueError(f"kv_cache_dtype: {kind} is for a GPU; {FP8_ON_A_CPU}")
        return self

    @model_validator(mode="after")
    def _leave_room_for_prefill(self) -> Self:
        # a full batch of decode tokens must leave budget for a chunk, or local prefill would starve
        num_seqs = 1 if self.max_num_seqs == "auto" else self.max_num_seqs
        if self.max_batch_tokens != "auto" and self.max_batch_tokens <= num_seqs:
            raise ValueError("max_batch_tokens must be greater than max_num_seqs")
        return self


class TransferConfig(Frozen):
    """Settings of the hand-off of KV from prefill to decode."""

    max_concurrent_pulls: int = Field(16, ge=1, description="Prompts a decode worker pulls at once")
    max_inflight_mib: int = Field(256, ge=1, description="KV a decode worker may have in flight")
    store_share: float = Field(
        0.3, gt=0, le=1, description="Of a node's object store, for all KV that passes through it"
    )
    max_item_mib: int = Field(16, ge=1, description="The largest piece in which KV is sent")
    item_timeout_s: float = Field(60.0, gt=0, description="Longest wait for the next KV item")
    inserts_per_step: int = Field(2, ge=1, description="KV chunks copied in between two steps")


class SecurityConfig(Frozen):
    """Settings of the router's access control and TLS."""

    access_file: Path | None = Field(None, description="Tokens and certificates of tenants")
    tls_cert_file: Path | None = Field(None, description="The gRPC port's certificate chain, PEM")
    tls_key_file: Path | None = Field(None, description="Its private key, PEM")
    tls_client_ca_file: Path | None = Field(
        None, description="Clients need a certificate of this authority, PEM"
    )
    insecure: bool = Field(False, description="Listen beyond loopback without access_file")
    internal_tls: Literal["auto", "files", "off"] = Field(
        "auto", description="Between routers and workers; auto: on a cluster, certificates are made"
    )
    internal_cert_file: Path | None = Field(None, description="files: certificate chain, PEM")
    internal_key_file: Path | None = Field(None, description="files: its private key, PEM")
    internal_ca_file: Path | None = Field(None, description="files: the authority of both, PEM")

    @model_validator(mode="after")
    def _check_files_belong_together(self) -> Self:
        internal = (self.internal_cert_file, self.internal_key_file, self.internal_ca_file)
        if (self.internal_tls == "files") != any(internal) or any(internal) != all(internal):
            names = "internal_cert_file, internal_key_file and internal_ca_file"
            raise ValueError(f"internal_tls: files and {names} need each other")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file need each other")
        if self.tls_client_ca_file and not (self.tls_cert_file and self.access_file):
            raise ValueError("tls_client_ca_file needs tls_cert_file, and access_file for names")
        return self


class ClusterConfig(Frozen):
    """Settings of the workers' places, in a Ray cluster and on this machine's GPUs."""

    wait_for_nodes_s: float | None = Field(None, gt=0, description="For nodes of an autoscaler")
    placement: Literal["spread", "pair"] = Field("spread", description="pair: prefill by decode")
    roles: Literal["auto", "on", "off"] = Field("auto", description="Workers keep to role nodes")
    gpus_per_worker: float | None = Field(None, gt=0, le=1, description="Below 1: a part of one")
    num_gpus: int | None = Field(None, ge=0, description="Of a private Ray; unset: all it finds")

    @property
    def waits_s(self) -> float:
        """Seconds that workers may wait for nodes; 0: what is missing is refused at once."""
        return self.wait_for_nodes_s or 0.0


class ServeConfig(Frozen):
    """Settings of a whole deployment."""

    model: str = "smollm2-135m"
    prefill: int = Field(
        1, ge=0, le=MAX_PREFILL_WORKERS, description="Prefill workers; 0: decode workers do it"
    )
    decode: int = Field(1, ge=1, le=MAX_DECODE_WORKERS, description="Decode workers")
    grpc_host: str = "127.0.0.1"
    grpc_port: Port = 50051
    http_port: Port = 8080
    openai_port: Port | None = Field(None, description="OpenAI's HTTP API; unset: off")
    pin: Literal["auto", "off"] = "auto"
    ray_address: str | None = Field(None, description="Join this Ray cluster; unset: a private Ray")
    namespace: str = Field("pdserve", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    start_timeout_s: float = Field(120.0, gt=0)
    drain_timeout_s: float = Field(10.0, ge=0)
    cluster: ClusterConfig = ClusterConfig()
    engine: EngineConfig = EngineConfig()
    transfer: TransferConfig = TransferConfig()
    router: RouterConfig = RouterConfig()
    security: SecurityConfig = SecurityConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @property
    def router_settings(self) -> RouterConfig:
        """The router's settings; a limit or an objective that is unset is the engine's target."""
        ttft_s, itl_s = self.engine.ttft_target_s, self.engine.itl_target_s
        targets = {"max_wait_s": ttft_s, "slo_ttft_s": ttft_s, "slo_tpot_s": itl_s}
        unset = {key: s for key, s in targets.items() if getattr(self.router, key) is None}
        return self.router.model_copy(update=unset)


class WorkerSpec(Frozen):
    """All that a worker process needs to know; the launcher makes it."""

    name: str
    role: Literal["prefill", "decode"]
    model_dir: Path
    model_name: str
    namespace: str
    bind_host: str | None = Field(None, description="Unset: the node's address in its cluster")
    num_threads: int = Field(0, ge=0, description="0: one per core the process may use")
    memory_bytes: int | None = Field(
        None, ge=0, description="Host memory it may take; unset: what is free when it starts"
    )
    machine_workers: int = Field(
        1, ge=1, description="Workers that share its machine's memory, itself included"
    )
    cores: tuple[int, ...] = ()
    starts_beside_others: bool = Field(False, description="Other workers serve when it starts")
    gpu_share: float = Field(
        0.0, ge=0, description="GPUs that it asks Ray for; below 1: a part of one"
    )
    gpu_ids: tuple[str, ...] = Field((), description="GPUs that Ray gave its process")
    log_file: Path | None = Field(None, description="Unset: output stays where the process has it")
    cluster_token: SecretStr = Field(SecretStr(""), description="Empty: whoever connects is served")
    certificates: Certificates | None = Field(None, exclude=True, repr=False)
    engine: EngineConfig = EngineConfig()
    transfer: TransferConfig = TransferConfig()

    @property
    def starts_gently(self) -> bool:
        """True if others may need the cores while it starts."""
        return self.starts_beside_others and not self.cores

    @property
    def access(self) -> WorkerAccess:
        """Proof that routers must show this worker, and that it shows them."""
        return WorkerAccess(self.cluster_token.get_secret_value(), self.certificates)
