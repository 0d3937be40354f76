"""Cost of the router itself: token throughput, added latency, memory of an idle stream.

Usage: python -m benchmarks.router. The router has the first core, the others are for worker doubles
and clients.
"""

import asyncio
import contextlib
import resource
import statistics
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.echo import measure_echo
from benchmarks.router.http_stream import opened, token_ids
from benchmarks.router.processes import RouterProcess, running
from benchmarks.router.throughput import (
    PER_CPU_SECOND,
    STREAMS,
    measure_throughput,
    stream_grpc,
    stream_http,
)
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from pdserve.v1 import inference_pb2, inference_pb2_grpc

_IDLE = 1000


def main(rounds: int = 3) -> None:
    """Measure, print a table, write benchmarks/results/router.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    results = [asyncio.run(_measure(model_dir)) for _ in range(rounds)]
    medians = {name: statistics.median(r[name] for r in results) for name in results[0]}
    write_result("router", {"rounds": rounds, "medians": medians})
    table = Table("figure", "median", title=f"a router alone, {STREAMS} streams")
    for name, value in medians.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)


async def _measure(model_dir: Path) -> dict[str, float]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures: dict[str, float] = {}
    async with (
        running(model_dir) as router,
        grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        figures |= await measure_throughput("gRPC", partial(stream_grpc, stub), router)
        figures |= await _idle_memory("gRPC", partial(_open_idle, stub), router)
    async with running(model_dir) as router:
        port = router.openai_port
        openai = await measure_throughput("OpenAI", partial(stream_http, port), router)
        figures |= openai | await measure_echo(STREAMS, 1 / openai[f"OpenAI: {PER_CPU_SECOND}"])
        figures |= await _idle_memory("OpenAI", partial(_open_idle_http, port), router)
    return figures


async def _idle_memory(
    api: str,
    open_idle: Callable[[contextlib.AsyncExitStack], Awaitable[None]],
    router: RouterProcess,
) -> dict[str, float]:
    before = await router.resident_bytes()
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(open_idle(stack) for _ in range(_IDLE)))
        each = (await router.resident_bytes() - before) / _IDLE
    return {f"{api}: KB of each of {_IDLE} idle streams": each / 1e3}


async def _open_idle(
    stub: "inference_pb2_grpc.InferenceAsyncStub", stack: contextlib.AsyncExitStack
) -> None:
    sampling = inference_pb2.SamplingParams(max_tokens=1000, ignore_eos=True)
    tokens = inference_pb2.TokenPrompt(token_ids=range(1, 17))
    request = inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling, priority=1)
    call = stub.Generate(request)
    stack.callback(call.cancel)
    await asyncio.wait_for(call.read(), 60)


async def _open_idle_http(port: int, stack: contextlib.AsyncExitStack) -> None:
    reader = await stack.enter_async_context(opened(port, max_tokens=1000, priority=1))
    await asyncio.wait_for(anext(token_ids(reader)), 60)


if __name__ == "__main__":
    typer.run(main)
