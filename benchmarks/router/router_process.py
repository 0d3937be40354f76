"""Router in a process of its own, for workers at given addresses.

Usage: python -m benchmarks.router.router_process MODEL_DIR [OPTIONS] ADDRESS... with --all-metrics,
--traces=RATIO,URL and --shared-openai-port=PORT, on which other routers may listen too (0: a free one).
Prints its gRPC, OpenAI and HTTP port, then its memory (bytes) for each line of input; ends with its input.
"""

import asyncio
import os
import sys
from pathlib import Path

from common.router_config import RouterConfig
from common.telemetry.logs import configure_logs
from common.telemetry.tracing.build import make_tracing
from common.telemetry_config import TelemetryConfig
from router.app import Router

_ALL_METRICS = "--all-metrics"
_METRICS = {
    "slo_ttft_s": 0.5,
    "slo_tpot_s": 0.05,
    "metrics_compat": "vllm",
    "metrics_tenants": 10,
}
_TRACES, _SHARED = "--traces=", "--shared-openai-port="


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _telemetry(options: list[str]) -> TelemetryConfig:
    if not options:
        return TelemetryConfig()
    ratio, _, endpoint = options[0].removeprefix(_TRACES).partition(",")
    return TelemetryConfig(sample_ratio=float(ratio), otlp_endpoint=endpoint)


async def main(model_dir: str, addresses: list[str]) -> None:
    """Serve until the input ends."""
    configure_logs(process="router")  # stdout is for the ports
    config = RouterConfig(
        policy="least_loaded", max_inflight_requests=4096, max_queued_requests=4096
    )
    if _ALL_METRICS in addresses:
        config = config.model_copy(update=_METRICS)
    shared = [int(a.removeprefix(_SHARED)) for a in addresses if a.startswith(_SHARED)]
    if shared:
        config = config.model_copy(update={"share_ports": True})
    traces = [address for address in addresses if address.startswith(_TRACES)]
    workers = [address for address in addresses if not address.startswith("--")]
    tracing = make_tracing(_telemetry(traces), "benchmark", "double")
    router = Router("double", Path(model_dir), workers, config, tracing=tracing)
    print(await router.start("127.0.0.1", 0, 0, 30.0), flush=True)
    print(await router.serve_openai("127.0.0.1", *(shared or [0])), flush=True)
    print(router.http_port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(_resident_bytes(), flush=True)
    await router.stop(0.0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
