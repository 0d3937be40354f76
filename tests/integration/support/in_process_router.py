"""Real router over the in-process workers, with a tiny model; and the ways a client can leave."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc

from common.config import EngineConfig
from common.engine.build import Engine
from common.engine.limits import choose_limits
from common.kv_transfer.wire import WireItem
from common.rpc.worker_host import WorkerHost
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    Worker,
    Workers,
    in_engine,
    until,
)
from tests.integration.support.kv_faults import Rewrite, meddle
from tests.integration.support.router_stack import ALWAYS_PREFILL, HOST, Stack, routing
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model
from tests.unit.router.tiny_tokenizer import write_folder

NUM_TOKENS = 40  # of a prompt: three chunks, and four items of a stream
WINDOW = (
    4 * choose_limits(CHUNKS_OF_16).max_batch_tokens
)  # limit of prompt tokens under way; beyond it prompts wait in the router
LONG = 3000  # tokens to generate, which takes seconds
DEADLINE_S = 0.6  # minimum time to reach a phase; then the deadline passes
_MARGIN = 10  # factor of a deadline over the longest time to reach a phase so far
ONE_AT_A_TIME = engine_config(num_blocks=600, max_num_seqs=1)
ENDS = {
    "client": grpc.StatusCode.CANCELLED,
    "Cancel": grpc.StatusCode.CANCELLED,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "Abort": grpc.StatusCode.OK,
}


@dataclass(slots=True)
class Valve:
    """Rewriter of every KV stream; a test may change it."""

    rewrite: Rewrite = iter

    def __call__(self, items: Iterator[WireItem]) -> Iterator[WireItem]:
        return self.rewrite(items)


@dataclass(slots=True)
class Routed:
    """Router, workers and clients that a test drives."""

    stack: Stack
    workers: Workers
    valve: Valve
    ours: Any  # stubs
    vllm: Any
    _numbers: "count[int]" = field(default_factory=count)
    _longest_s: float = 0.0  # from the start of a request to its phase
    _began_s: float = 0.0

    def prompt(self, num_tokens: int = NUM_TOKENS) -> list[int]:
        """Return a prompt that shares no block with earlier ones."""
        first = next(self._numbers)
        assert first < VOCAB
        return [(7 * place + first) % VOCAB for place in range(num_tokens)]

    def generate(
        self,
        prompt: list[int],
        max_tokens: int,
        name: str = "",
        timeout_s: float = WITHIN_S,
        salt: str = "",
        priority: int = 0,
    ) -> Any:
        """Start a request; return its call, to be read."""
        request = inference_pb2.GenerateRequest(
            request_id=name,
            cache_salt=salt,
            priority=priority,
            tokens=inference_pb2.TokenPrompt(token_ids=prompt),
            sampling=inference_pb2.SamplingParams(seed=3, temperature=0.8, max_tokens=max_tokens),
        )
        return self.ours.Generate(request, timeout=timeout_s)

    def begin(self, name: str, way: str, max_tokens: int) -> Any:
        """Start the request with this id, to be left in this way."""
        self._began_s = time.monotonic()
        if way != "Abort":
            deadline_s = max(_MARGIN * self._longest_s, DEADLINE_S)
            timeout_s = deadline_s if way == "deadline" else WITHIN_S
            return self.generate(self.prompt(), max_tokens, name, timeout_s)
        request = vllm_pb2.GenerateRequest(
            request_id=name,
            tokenized=vllm_pb2.TokenizedInput(input_ids=self.prompt()),
            sampling_params=vllm_pb2.SamplingParams(max_tokens=max_tokens),
            stream=True,
        )
        return self.vllm.Generate(request, timeout=WITHIN_S)

    async def leave(self, name: str, way: str, call: Any) -> None:
        """Leave the request in its phase; return when its stream has ended with the right code."""
        self._longest_s = max(time.monotonic() - self._began_s, self._longest_s)
        if way == "client":
            call.cancel()
        elif way == "Cancel":
            await self.ours.Cancel(inference_pb2.CancelRequest(request_id=name), timeout=WITHIN_S)
        elif way == "Abort":
            await self.vllm.Abort(vllm_pb2.AbortRequest(request_ids=[name]), timeout=WITHIN_S)
        assert await end_of(call) is ENDS[way]

    async def warm_up(self, name: str) -> None:
        """Run a request of one token, and take its time as that to reach a phase."""
        await read_to_the_end(self.begin(name, "client", 1))
        self._longest_s = max(time.monotonic() - self._began_s, self._longest_s)

    async def forget_delays(self) -> None:
        """Have all predict by what the workers measured first, not by how a test held them up."""
        await asyncio.to_thread(_forget_delays, self.workers.prefill)
        await asyncio.to_thread(_forget_delays, self.workers.decode)
        await self.warm_up("tells-what-workers-expect")

    async def in_flight(self, number: int) -> None:
        """Return when the router has `number` requests in flight; fails after WITHIN_S."""
        await self.stack.until(lambda status: status.router.requests_in_flight == number)

    async def until(self, is_true: Callable[[], bool], what: str) -> None:
        """Wait as in_process_workers.until, while the router goes on."""
        await asyncio.to_thread(until, is_true, what)


def _forget_delays(worker: Worker) -> None:
    costs = worker._engine._engine.costs
    in_engine(worker, lambda: costs.begin(costs._measured))


async def read_to_the_end(call: Any) -> list[Any]:
    """Read all messages. Raises the call's error."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def end_of(call: Any) -> grpc.StatusCode:
    """Return the code with which a call ends."""
    try:
        await read_to_the_end(call)
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        assert call.done()
    code: grpc.StatusCode = await call.code()
    return code


@asynccontextmanager
async def routed(
    folder: Path,
    decode_config: EngineConfig = ONE_AT_A_TIME,
    change: Callable[[Engine], Engine] | None = None,
    tracing: Tracing = NO_TRACING,
) -> AsyncIterator[Routed]:
    """Yield a router; prefill runs chunks of 16 tokens, decode one sequence at a time by default.

    `change` is applied to both engines before they start. The tokenizer has more tokens than the
    model.
    """
    model_dir = write_folder(save_model(folder, "llama", max_position_embeddings=8192))
    valve = Valve()
    with Workers(
        model_dir,
        prefill_config=CHUNKS_OF_16,
        decode_config=decode_config,
        wrap=meddle(valve),
        change=change or (lambda engine: engine),
    ) as workers:
        hosts = [WorkerHost(worker, HOST) for worker in (workers.decode, workers.prefill)]
        addresses = [host.start() for host in hosts]
        async with (
            routing(model_dir, addresses, ALWAYS_PREFILL, tracing=tracing) as stack,
            grpc.aio.insecure_channel(stack.address) as channel,
        ):
            ours = inference_pb2_grpc.InferenceStub(channel)
            vllm = vllm_pb2_grpc.VllmEngineStub(channel)
            rig = Routed(stack, workers, valve, ours, vllm)
            # lets the first deadline fit this machine; not possible with a changed engine, which
            # may fail them
            for name in () if change is not None else ("cold", "warm"):
                await rig.warm_up(name)
            yield rig
        for host in hosts:
            await asyncio.to_thread(host.stop, WITHIN_S)
