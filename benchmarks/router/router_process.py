"""Router in a process of its own, for workers at given addresses.

Usage: python -m benchmarks.router.router_process [--all-metrics] MODEL_DIR ADDRESS...
Prints its gRPC, OpenAI and HTTP port, then its memory (bytes) for each line of input; ends with its input.
With --all-metrics it has an objective, names tenants, and has metrics under vLLM's names too.
"""

import asyncio
import os
import sys
from pathlib import Path

from common.config import RouterConfig
from common.telemetry.logs import configure_logs
from router.app import Router


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


_ALL_METRICS = "--all-metrics"


async def main(model_dir: str, addresses: list[str], *, has_all_metrics: bool) -> None:
    """Serve until the input ends."""
    configure_logs(process="router")  # stdout is for the ports
    config = RouterConfig(
        policy="least_loaded", max_inflight_requests=4096, max_queued_requests=4096
    )
    if has_all_metrics:
        config = config.model_copy(
            update={
                "slo_ttft_s": 0.5,
                "slo_tpot_s": 0.05,
                "metrics_compat": "vllm",
                "metrics_tenants": 10,
            }
        )
    router = Router("double", Path(model_dir), addresses, config)
    print(await router.start("127.0.0.1", 0, 0, 30.0), flush=True)
    print(await router.serve_openai("127.0.0.1", 0), flush=True)
    print(router.http_port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(_resident_bytes(), flush=True)
    await router.stop(0.0)


if __name__ == "__main__":
    folder, *rest = [argument for argument in sys.argv[1:] if argument != _ALL_METRICS]
    asyncio.run(main(folder, rest, has_all_metrics=_ALL_METRICS in sys.argv))
