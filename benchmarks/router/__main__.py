"""Cost of the router itself: token throughput, added latency, memory of an idle stream.

Usage: python -m benchmarks.router. The router has the first core, the others are for worker doubles
and clients.
"""

import asyncio
import contextlib
import resource
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.http_stream import opened, token_ids
from benchmarks.router.processes import RouterProcess, running
from benchmarks.router.worker_double import TICK_S, clock_id
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from pdserve.v1 import inference_pb2, inference_pb2_grpc

_STREAMS, _TOKENS = 256, 400
_IDLE = 1000
_SKIPPED = 25  # first tokens of each stream, sent while the others start


@dataclass(slots=True)
class Seen:
    """Latencies from the worker's step to the client, in seconds."""

    latencies_s: list[float] = field(default_factory=list)

    def note(self, found: Sequence[int], count: int) -> int:
        """Take an event's tokens; return how many of its stream have come, `count` before."""
        count += len(found)
        if found and count > _SKIPPED:
            ticks = (clock_id(_VOCAB) - found[-1]) % _VOCAB
            self.latencies_s.append(ticks * TICK_S)
        return count


def main(rounds: int = 3) -> None:
    """Measure, print a table, write benchmarks/results/router.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    results = [asyncio.run(_measure(model_dir)) for _ in range(rounds)]
    medians = {name: statistics.median(r[name] for r in results) for name in results[0]}
    write_result("router", {"rounds": rounds, "medians": medians})
    table = Table("figure", "median", title=f"a router alone, {_STREAMS} streams")
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
        figures |= await _throughput("gRPC", partial(_stream, stub), router)
        figures |= await _idle_memory("gRPC", partial(_open_idle, stub), router)
    async with running(model_dir) as router:
        port = router.openai_port
        figures |= await _throughput("OpenAI", partial(_stream_http, port), router)
        figures |= await _idle_memory("OpenAI", partial(_open_idle_http, port), router)
    return figures


async def _throughput(
    api: str, stream: Callable[["Seen"], Awaitable[None]], router: RouterProcess
) -> dict[str, float]:
    seen, loop = Seen(), asyncio.get_running_loop()
    start_s, cpu_s = loop.time(), router.cpu_s()
    await asyncio.gather(*(stream(seen) for _ in range(_STREAMS)))
    wall_s = loop.time() - start_s
    busy_s = router.cpu_s() - cpu_s
    p50, p99 = np.percentile(seen.latencies_s, (50, 99)) * 1e3
    return {
        f"{api}: tokens/s": _STREAMS * _TOKENS / wall_s,
        f"{api}: tokens per second of the router's processor time": _STREAMS * _TOKENS / busy_s,
        f"{api}: worker to client p50, ms": float(p50),
        f"{api}: worker to client p99, ms": float(p99),
    }


async def _stream(stub: "inference_pb2_grpc.InferenceAsyncStub", seen: Seen) -> None:
    sampling = inference_pb2.SamplingParams(max_tokens=_TOKENS, ignore_eos=True)
    tokens = inference_pb2.TokenPrompt(token_ids=range(1, 17))
    request = inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling)
    count = 0
    async for response in stub.Generate(request):
        count = seen.note(response.token_ids, count)
    if count != _TOKENS:
        raise RuntimeError(f"{count} tokens")


async def _stream_http(port: int, seen: Seen) -> None:
    count = 0
    async with opened(port, max_tokens=_TOKENS) as reader:
        async for found in token_ids(reader):
            count = seen.note(found, count)
    if count != _TOKENS:
        raise RuntimeError(f"{count} tokens")


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


_VOCAB = 49152


if __name__ == "__main__":
    typer.run(main)
