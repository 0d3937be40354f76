"""Many streams at once through a router: its throughput and the latency that it adds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.router.http_stream import opened, token_ids
from benchmarks.router.processes import RouterProcess
from benchmarks.router.worker_double import TICK_S, clock_id
from pdserve.v1 import inference_pb2, inference_pb2_grpc

STREAMS, TOKENS = 256, 400
PER_CPU_SECOND = "tokens per second of the router's processor time"  # a figure's name
_SKIPPED = 25  # first tokens of each stream, sent while the others start
_VOCAB = 49152


@dataclass(slots=True)
class Seen:
    """Latencies from the worker's step to the client, in seconds, and when each one ended."""

    latencies_s: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    def note(self, found: Sequence[int], count: int) -> int:
        """Take an event's tokens; return how many of its stream have come, `count` before."""
        count += len(found)
        if found and count > _SKIPPED:
            ticks = (clock_id(_VOCAB) - found[-1]) % _VOCAB
            self.latencies_s.append(ticks * TICK_S)
            self.times_s.append(time.monotonic())
        return count

    def usual_p99_s(self) -> float:
        """Return the p99 of the median second: a machine's slow moments come in some seconds alone."""
        seconds = np.floor(self.times_s)
        latencies_s = np.array(self.latencies_s)
        of_each = [np.percentile(latencies_s[seconds == one], 99) for one in np.unique(seconds)]
        return float(np.median(of_each))


async def measure_throughput(
    api: str, stream: Callable[[Seen], Awaitable[None]], router: RouterProcess
) -> dict[str, float]:
    """Return the figures of STREAMS streams of TOKENS tokens each."""
    seen, loop = Seen(), asyncio.get_running_loop()
    start_s, cpu_s = loop.time(), router.cpu_s()
    await asyncio.gather(*(stream(seen) for _ in range(STREAMS)))
    wall_s = loop.time() - start_s
    busy_s = router.cpu_s() - cpu_s
    p50, p99 = np.percentile(seen.latencies_s, (50, 99)) * 1e3
    return {
        f"{api}: tokens/s": STREAMS * TOKENS / wall_s,
        f"{api}: {PER_CPU_SECOND}": STREAMS * TOKENS / busy_s,
        f"{api}: worker to client p50, ms": float(p50),
        f"{api}: worker to client p99, ms": float(p99),
        f"{api}: the same of the median second, ms": seen.usual_p99_s() * 1e3,
    }


async def stream_grpc(
    stub: "inference_pb2_grpc.InferenceAsyncStub", seen: Seen, num_tokens: int = TOKENS
) -> None:
    """Read a stream of `num_tokens` tokens."""
    sampling = inference_pb2.SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    tokens = inference_pb2.TokenPrompt(token_ids=range(1, 17))
    request = inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling)
    count = 0
    async for response in stub.Generate(request):
        count = seen.note(response.token_ids, count)
    if count != num_tokens:
        raise RuntimeError(f"{count} tokens")


async def stream_http(port: int, seen: Seen) -> None:
    """Read a stream of TOKENS tokens."""
    count = 0
    async with opened(port, max_tokens=TOKENS) as reader:
        async for found in token_ids(reader):
            count = seen.note(found, count)
    if count != TOKENS:
        raise RuntimeError(f"{count} tokens")
