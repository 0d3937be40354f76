"""Loss of a router: its resumable requests go on at another one, with every token once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.messages import FinishReason, SequenceOutput, WorkRequest
from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from pdserve.client import AsyncClient
from pdserve.sync_client import Client
from pdserve.v1 import inference_pb2
from tests.integration.support.resumed_streams import LATE
from tests.integration.support.router_stack import HOST, Stack, routing, text_of
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.integration.support.tcp_relay import Relay, relaying
from tests.patience import WITHIN_S

DEAD = f"{HOST}:1"  # no process listens there
TEXT = "añ日🎉 end"
TOKENS = tuple(TEXT.encode())  # a token is a byte
HASTY = RouterConfig(resume_grace_s=0.05)  # a run that nobody reads ends at once
Read = list[inference_pb2.GenerateResponse]


def in_parts(worker: ScriptedWorker, request: WorkRequest) -> None:
    """Say the tokens up to the next of the numbers in the prompt, or all; a script."""
    first = len(request.prior_token_ids)
    end = next((end for end in request.prompt_token_ids if end > first), len(TOKENS))
    for index in range(first, end):
        reason = FinishReason.STOP if index == len(TOKENS) - 1 else None
        worker.publish(SequenceOutput(request.request_id, index, (TOKENS[index],), reason))


@dataclass(frozen=True, slots=True)
class Lossy:
    """A router whose clients reach it through a relay."""

    stack: Stack
    relay: Relay
    address: str

    def die(self) -> None:
        """End as a killed process does, for the clients."""
        self.relay.redirect(DEAD)
        self.relay.lose()

    def come_back(self) -> None:
        """Be reachable again."""
        self.relay.redirect(self.stack.address)


@asynccontextmanager
async def two_routers(
    model_dir: Path, worker: ScriptedWorker, first: RouterConfig = HASTY
) -> AsyncIterator[tuple[Lossy, Lossy]]:
    """Yield two routers of one worker; in the end none of them may have a request."""
    host = WorkerHost(worker, HOST)
    try:
        addresses = [host.start()]
        async with (
            routing(model_dir, addresses, first) as one,
            routing(model_dir, addresses, HASTY) as other,
            relaying(one.address) as (at, relay),
            relaying(other.address) as (other_at, other_relay),
        ):
            yield Lossy(one, relay, at), Lossy(other, other_relay, other_at)
            admissions = [stack.router._admission for stack in (one, other)]
            await until(lambda: not any(admission.num_in_flight for admission in admissions))
            await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
    finally:
        await asyncio.to_thread(host.stop, WITHIN_S)


def check_whole(parts: Read) -> None:
    """Check that the text is right, and that each token came once and in order."""
    assert text_of(parts) == TEXT
    assert [part.index for part in parts] == [*range(len(TOKENS))]
    assert tuple(token for part in parts for token in part.token_ids) == TOKENS
    assert parts[-1].finished.usage.completion_tokens == len(TOKENS)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            await asyncio.sleep(0.002)


async def read_async(addresses: list[str], reads: dict[int, Read]) -> None:
    async with AsyncClient(addresses) as client:

        async def read(end: int) -> None:
            async for part in client.stream([end], resumable=True):
                reads[end].append(part)

        await asyncio.gather(*map(read, reads))


async def read_sync(addresses: list[str], reads: dict[int, Read]) -> None:
    with ThreadPoolExecutor(len(reads)) as threads, Client(addresses) as client:

        def read(end: int) -> None:
            for part in client.stream([end], resumable=True):
                reads[end].append(part)

        run = asyncio.get_running_loop().run_in_executor
        await asyncio.gather(*(run(threads, read, end) for end in reads))


@pytest.mark.parametrize("read", [read_async, read_sync], ids=["async", "sync"])
async def test_an_answer_goes_on_from_every_place_where_its_router_may_die(
    model_dir: Path, read: Callable[[list[str], dict[int, Read]], Awaitable[None]]
) -> None:
    worker, reads = ScriptedWorker(script=in_parts), {n: Read() for n in range(1, len(TOKENS))}
    async with two_routers(model_dir, worker) as (one, other):
        reading = asyncio.ensure_future(read([one.address, other.address], reads))
        await until(lambda: all(len(parts) == end for end, parts in reads.items()))
        one.die()
        await reading
        for parts in reads.values():
            check_whole(parts)
        totals = [await router.stack.until_idle() for router in (one, other)]
    assert [(t.completed, t.cancelled) for t in totals] == [(0, len(reads)), (len(reads), 0)]
    moved = sorted(r.prior_token_ids for r in worker.requests if r.prior_token_ids)
    assert moved == sorted(TOKENS[:end] for end in reads)


async def test_a_router_that_shuts_down_passes_its_answers_on(model_dir: Path) -> None:
    worker = ScriptedWorker(script=in_parts)
    async with (
        two_routers(model_dir, worker) as (one, other),
        AsyncClient([one.address, other.address]) as client,
    ):
        stream = client.stream([5], resumable=True)
        parts = [await anext(stream) for _ in range(5)]
        await one.stack.router.stop(0.0)
        check_whole(parts + [part async for part in stream])


async def test_one_address_may_lead_to_another_router(model_dir: Path) -> None:
    worker = ScriptedWorker(script=in_parts)
    async with two_routers(model_dir, worker) as (one, other), AsyncClient(one.address) as client:
        stream = client.stream([5], resumable=True)
        parts = [await anext(stream) for _ in range(5)]
        one.relay.redirect(other.stack.address)
        one.relay.lose()
        check_whole(parts + [part async for part in stream])


async def test_an_answer_comes_back_to_a_router_that_still_runs_it(model_dir: Path) -> None:
    worker = ScriptedWorker(script=in_parts)
    async with two_routers(model_dir, worker, LATE) as (one, other):
        async with AsyncClient([one.address, other.address]) as client:
            stream = client.stream([3, 7], request_id="r", resumable=True)
            parts = [await anext(stream) for _ in range(3)]
            one.die()
            parts += [await anext(stream) for _ in range(4)]
            assert (await one.stack.client.status()).router.requests_in_flight == 1
            one.come_back()
            other.die()
            check_whole(parts + [part async for part in stream])
        totals = await one.stack.until_idle()
    assert (totals.accepted, totals.completed, totals.cancelled) == (2, 1, 1)
    assert [len(request.prior_token_ids) for request in worker.requests] == [0, 3, 7]


async def test_a_choice_that_has_ended_is_not_asked_for_again(model_dir: Path) -> None:
    def script(worker: ScriptedWorker, request: WorkRequest) -> None:
        if request.sampling.seed:
            worker.say(request, "whole", ends=True)
        else:
            in_parts(worker, request)

    worker = ScriptedWorker(script=script)
    sampling = inference_pb2.SamplingParams(n=2, seed=0)
    async with (
        two_routers(model_dir, worker) as (one, other),
        AsyncClient([one.address, other.address]) as client,
    ):
        stream = client.stream([4], sampling, resumable=True)
        parts = [await anext(stream) for _ in range(5)]
        one.die()
        parts += [part async for part in stream]
    check_whole([part for part in parts if not part.choice])
    (whole,) = [part for part in parts if part.choice]
    assert (whole.text, whole.HasField("finished")) == ("whole", True)
    assert [request.sampling.seed for request in worker.requests] == [0, 1, 0]
