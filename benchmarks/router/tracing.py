"""Cost of tracing in the router: no tracing and traces of 1 % of the requests, in turns.

Usage: python -m benchmarks.router.tracing. Needs the extra `otel`. A turn is a router of its own. Its
requests are short, since a trace costs once a request; the collector reads and forgets.
"""

import asyncio
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.processes import running
from benchmarks.router.throughput import STREAMS, Seen, stream_grpc
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from pdserve.v1 import inference_pb2_grpc

_TOKENS, _REQUESTS_EACH = 40, 10


def main(rounds: int = 4, ratio: float = 0.01) -> None:
    """Measure off, on, off, on ...; print a table, write benchmarks/results/router_tracing.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    found: dict[str, list[float]] = {"off": [], f"{ratio:.0%}": []}
    with _collector() as endpoint:
        for _ in range(rounds):
            for name, values in found.items():
                options = () if name == "off" else (f"--traces={ratio},{endpoint}",)
                values.append(asyncio.run(_tokens_per_cpu_s(model_dir, options)))
    off, traced = (statistics.median(values) for values in found.values())
    cost = 1 - traced / off
    figures = {"tokens per second of the router's processor time": found, "cost": cost}
    write_result("router_tracing", {"rounds": rounds, "ratio": ratio, **figures})
    table = Table("tracing", "tokens by CPU second", title=f"tracing costs {cost:.2%}")
    for name, values in found.items():
        table.add_row(name, "  ".join(f"{value:.0f}" for value in values))
    Console().print(table)


async def _tokens_per_cpu_s(model_dir: Path, options: tuple[str, ...]) -> float:
    async with (
        running(model_dir, *options) as router,
        grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel,
    ):
        ask = partial(stream_grpc, inference_pb2_grpc.InferenceStub(channel), num_tokens=_TOKENS)

        async def user() -> None:
            for _ in range(_REQUESTS_EACH):
                await ask(Seen())

        before_s = router.cpu_s()
        await asyncio.gather(*(user() for _ in range(STREAMS)))
        return STREAMS * _REQUESTS_EACH * _TOKENS / (router.cpu_s() - before_s)


@contextmanager
def _collector() -> Iterator[str]:
    """Yield the endpoint of a collector in this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forget)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Forget(BaseHTTPRequestHandler):
    """Reader of messages that nobody needs."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    typer.run(main)
