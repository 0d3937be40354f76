"""Addresses of a running deployment, and what `pdserve ready` says of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.config import ServeConfig
from common.kv_capacity import describe_capacity

if TYPE_CHECKING:
    from router.app import Router


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of a running deployment."""

    host: str
    grpc_port: int
    http_port: int
    openai_port: int | None = None  # None: no OpenAI API
    dtype: str = ""  # of weights and KV
    dtype_reason: str = ""
    kv_capacity: str = ""  # of each decode worker, in words
    model: str = ""
    has_live_page: bool = False

    @property
    def grpc_address(self) -> str:
        """The address host:port for gRPC clients on this machine."""
        return f"{self._near_host}:{self.grpc_port}"

    @property
    def live_page(self) -> str:
        """The live page's address for browsers on this machine; empty if it is switched off."""
        host = f"[{self._near_host}]" if ":" in self._near_host else self._near_host
        return f"http://{host}:{self.http_port}/" if self.has_live_page else ""

    @property
    def _near_host(self) -> str:
        return "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - a comparison


def endpoints_of(router: "Router", config: ServeConfig, grpc_port: int, model: str) -> Endpoints:
    """Return the addresses of a router that has started, and what it serves."""
    served = router.model_info
    return Endpoints(
        config.grpc_host,
        grpc_port,
        router.http_port,
        model=model,
        dtype=served.dtype,
        dtype_reason=served.dtype_reason,
        kv_capacity=describe_capacity(
            router.kv_capacity_tokens, served.max_context_tokens, served.profile.max_num_seqs
        ),
        has_live_page=config.router.live_page,
    )
