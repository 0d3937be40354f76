"""Client that offers more than the server can serve: requests with deadlines, without retries.

The client shares the server's cores. So it uses bare stubs over a few connections, and serializes
all requests before it sends the first.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

import grpc

from benchmarks.load_generator import OnDone, Record
from benchmarks.slo_attainment import Slo
from benchmarks.workload import Work
from pdserve.connection import bearer
from pdserve.errors import Reason
from pdserve.statuses import to_error
from pdserve.v1 import inference_pb2

_GENERATE = "/pdserve.v1.Inference/Generate"
_NUM_CHANNELS = 4
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
_REFUSALS = {Reason.QUEUE_FULL, Reason.DEADLINE_UNREACHABLE, Reason.TENANT_LIMIT}
_Call: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, inference_pb2.GenerateResponse]"


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of one request."""

    record: Record  # with the tokens that came, if any
    seconds: float  # from sending to the end of the stream
    reason: Reason | None = None  # None: all tokens came

    @property
    def is_refused(self) -> bool:
        """True if the router refused the request at admission."""
        return self.reason in _REFUSALS

    def meets(self, slo: Slo) -> bool:
        """Return True if all tokens came in time."""
        record = self.record
        return self.reason is None and record.ttft_s <= slo.ttft_s and record.tpot_s <= slo.tpot_s


class Caller:
    """Connections of one tenant."""

    def __init__(self, channels: list[grpc.aio.Channel], token: str) -> None:
        self._metadata = bearer(token)
        decode = inference_pb2.GenerateResponse.FromString
        calls: list[_Call] = [channel.unary_stream(_GENERATE, None, decode) for channel in channels]
        self._calls = cycle(calls)

    async def offer(self, works: list[Work], slo: Slo, on_done: OnDone) -> list[Answer]:
        """Send each work at its arrival time; return when all have ended.

        Each has its SLO's last moment as its deadline. Raises RuntimeError if a stream ends without
        an error and with tokens missing.
        """
        requests = [(work, _serialize(work)) for work in works]
        start_s = time.perf_counter()

        async def arrive(work: Work, request: bytes) -> Answer:
            await asyncio.sleep(start_s + work.arrival_s - time.perf_counter())
            answer = await self._send(work, request, slo.decided_s(work))
            on_done()
            return answer

        return list(await asyncio.gather(*(arrive(*request) for request in requests)))

    async def _send(self, work: Work, request: bytes, timeout_s: float) -> Answer:
        start_s, times, tokens, reason = time.perf_counter(), list[float](), 0, None
        call = next(self._calls)(request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for response in call:
                if response.token_ids:
                    tokens += len(response.token_ids)
                    times.append(time.perf_counter())
        except grpc.aio.AioRpcError as error:
            reason = to_error(error).reason
        seconds = time.perf_counter() - start_s
        if reason is None and tokens != work.output_tokens:
            raise RuntimeError(f"asked for {work.output_tokens} tokens, got {tokens}")
        return Answer(Record(work, start_s, tuple(times)), seconds, reason)


@contextlib.asynccontextmanager
async def calling(address: str, token: str) -> AsyncGenerator[Caller]:
    """Yield a tenant's caller; it has several connections, since flow control is per connection."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(address, _OPTIONS) for _ in range(_NUM_CHANNELS)]
        yield Caller([await stack.enter_async_context(channel) for channel in channels], token)


def _serialize(work: Work) -> bytes:
    sampling = inference_pb2.SamplingParams(max_tokens=work.output_tokens, ignore_eos=True)
    tokens = inference_pb2.TokenPrompt(token_ids=work.prompt_token_ids)
    return inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling).SerializeToString()
