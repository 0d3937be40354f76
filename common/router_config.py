"""Settings of the router."""

from typing import Literal

from pydantic import Field

from common.frozen import Frozen

PolicyName = Literal["cost", "least_loaded", "round_robin", "local"]


class TenantLimits(Frozen):
    """Limits of one tenant."""

    max_requests: int | None = Field(None, ge=1, description="In flight at once; unset: any number")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Of prompts and outputs together; unset: any number"
    )
    weight: float = Field(1.0, ge=0.01, le=1000, description="Share where tenants wait")


class RouterConfig(Frozen):
    """Settings of the router."""

    policy: PolicyName = Field(
        "cost",
        description="How workers are chosen; least_loaded: prompts always to the prefill pool",
    )
    generation_config: Literal["auto", "off"] = Field(
        "auto", description="Where a request is silent, sample as the model's own file says"
    )
    max_inflight_requests: int = Field(1024, ge=1)
    max_queued_requests: int = Field(256, ge=1, description="Accepted requests without a token yet")
    max_queued_tokens: int = Field(
        262_144, ge=1, description="Prompt tokens of accepted requests without a token yet"
    )
    max_wait_s: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="The longest that a prompt may wait before it runs; "
        "unset: engine.ttft_target_s, if that is set; 0: any time",
    )
    tenant: TenantLimits = Field(TenantLimits(), description="Limits of each tenant")
    tenants: dict[str, TenantLimits] = Field(
        default_factory=dict, description="Limits of tenants by name, instead of router.tenant"
    )
    slo_ttft_s: float | None = Field(
        None, gt=0, description="Goodput: the latest first token; unset: engine.ttft_target_s"
    )
    slo_tpot_s: float | None = Field(
        None, gt=0, description="Goodput: seconds for each later token; unset: engine.itl_target_s"
    )
    metrics_compat: Literal["off", "vllm"] = Field(
        "off", description="vllm: metrics also under the names of vLLM"
    )
    metrics_tenants: int = Field(
        0,
        ge=0,
        le=1000,
        description="Tenants that metrics name, the rest is `other`; 0: no metrics",
    )
    stalled_after_s: float = Field(
        10.0, gt=0, description="No step for so long, with work: stalled"
    )
    max_outage_s: float = Field(
        30.0, ge=0, description="The longest that requests wait while no decode worker is ready"
    )
    max_worker_deaths: int = Field(
        2, ge=0, description="Deaths of workers that a request survives; the next one is POISON"
    )
    watchdog_s: float = Field(
        10.0, gt=0, description="No answer, or no step with work, for so long: killed and restarted"
    )
    share_ports: bool = Field(
        False,
        description="Let other routers of this machine listen on the same gRPC and OpenAI ports",
    )
    slow_client_s: float = Field(
        10.0, gt=0, description="The longest that a client may not take a message"
    )
    max_unread_tokens: int = Field(
        4096, ge=1, description="Tokens kept for a client that does not read"
    )
    resume_grace_s: float = Field(
        10.0, ge=0, description="How long a resumable request goes on without a stream"
    )
    resume_buffer_messages: int = Field(
        4096, ge=1, description="Latest messages kept of each resumable request"
    )
    live_page: bool = Field(True, description="Serve the live page at the HTTP port")
