"""Real engines behind a network that breaks: the text of an undisturbed run, and no block held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from common.rpc.worker_service import LEASE_S
from pdserve.errors import Reason, UnavailableError
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    Worker,
    Workers,
    held,
    until,
)
from tests.integration.support.router_stack import (
    ALWAYS_PREFILL,
    HOST,
    Stack,
    routing,
    text_of,
)
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.integration.support.tcp_relay import Relay, relaying
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model
from tests.unit.router.tiny_tokenizer import write_folder

NUM_STREAMS, NUM_TOKENS = 8, 150
ENDLESS = 8000  # more tokens than come before the connection is cut
NOBODY_WAITS = ALWAYS_PREFILL.model_copy(update={"max_outage_s": 0})
Parts = list[inference_pb2.GenerateResponse]


@dataclass(slots=True)
class Rig:
    """A router, a prefill worker, and a decode worker behind a relay."""

    stack: Stack
    workers: Workers
    relay: Relay

    async def run(self, number: int, parts: Parts, num_tokens: int = NUM_TOKENS) -> Parts:
        """Run a request, and put its messages into `parts` as they come."""
        prompt = [(7 * place + number) % VOCAB for place in range(40)]
        sampling = inference_pb2.SamplingParams(
            seed=number, temperature=0.8, max_tokens=num_tokens, ignore_eos=True, logprobs=2
        )
        async for part in self.stack.client.stream(prompt, sampling):
            parts.append(part)
        return parts

    async def submitted(self, number: int) -> None:
        """Wait until the decode worker has so many requests."""
        link = self.stack.router._pool._links[0]
        async with asyncio.timeout(WITHIN_S):
            while link.num_live < number:
                await asyncio.sleep(0)

    async def cut(self) -> None:
        """Cut the connection between router and decode worker; return when it is there again."""
        link = self.stack.router._pool._links[0]
        num_streams = link.num_streams
        self.relay.lose()
        async with asyncio.timeout(WITHIN_S):
            while not (link.is_connected and link.num_streams > num_streams):
                await asyncio.sleep(0.002)

    async def none_held(self) -> None:
        """Wait until no worker holds a block."""
        for worker in (self.workers.decode, self.workers.prefill):
            await asyncio.to_thread(until, partial(_is_free, worker), "free")


@asynccontextmanager
async def behind_relay(
    folder: Path, lease_s: float, config: RouterConfig = ALWAYS_PREFILL
) -> AsyncIterator[Rig]:
    model_dir = write_folder(save_model(folder, "llama", max_position_embeddings=8192))
    decode_config = engine_config(num_blocks=600, max_num_seqs=NUM_STREAMS)
    with Workers(model_dir, prefill_config=CHUNKS_OF_16, decode_config=decode_config) as workers:
        decode = WorkerHost(workers.decode, HOST, lease_s=lease_s)
        prefill = WorkerHost(workers.prefill, HOST)
        async with (
            relaying(decode.start()) as (address, relay),
            routing(model_dir, [address, prefill.start()], config) as stack,
        ):
            yield Rig(stack, workers, relay)
        for host in (decode, prefill):
            await asyncio.to_thread(host.stop, WITHIN_S)


def _is_free(worker: Worker) -> bool:
    return not held(worker)


def seen(parts: Parts) -> tuple[str, list[int], list[object]]:
    """Return what a client has got: text, tokens, log-probabilities. Checks the tokens' indices."""
    tokens: list[int] = []
    scores: list[object] = []
    for part in parts:
        assert part.index == len(tokens)
        tokens += part.token_ids
        scores += [score.SerializeToString() for score in part.logprobs]
    return "".join(part.text for part in parts), tokens, scores


def num_received(parts: Parts) -> int:
    """Count a client's tokens: a fast engine's come several in a message."""
    return sum(len(part.token_ids) for part in parts)


async def test_cuts_under_eight_streams_change_nothing_for_their_clients(tmp_path: Path) -> None:
    async with behind_relay(tmp_path, LEASE_S) as rig:
        undisturbed = [await rig.run(number, []) for number in range(NUM_STREAMS)]
        parts: list[Parts] = [[] for _ in range(NUM_STREAMS)]
        runs = [
            asyncio.create_task(rig.run(number, parts[number])) for number in range(NUM_STREAMS)
        ]
        await rig.submitted(NUM_STREAMS)
        await rig.cut()  # for most before token 0
        for num_tokens in (1, 20, 60):
            async with asyncio.timeout(WITHIN_S):
                while min(map(num_received, parts)) < num_tokens:
                    await asyncio.sleep(0.002)
            await rig.cut()
        await asyncio.gather(*runs)
        assert [len(seen(found)[1]) for found in parts] == [NUM_TOKENS] * NUM_STREAMS
        assert [*map(seen, parts)] == [*map(seen, undisturbed)]
        await rig.none_held()
        totals = await rig.stack.until_idle()
        assert totals.accepted == totals.completed == 2 * NUM_STREAMS


async def test_the_blocks_of_a_router_that_stays_away_are_free_after_the_lease(
    tmp_path: Path,
) -> None:
    async with behind_relay(tmp_path, 0.2, NOBODY_WAITS) as rig:
        parts: Parts = []
        run = asyncio.create_task(rig.run(0, parts, ENDLESS))
        async with asyncio.timeout(WITHIN_S):
            while not parts:
                await asyncio.sleep(0.002)
        rig.relay.freeze()
        rig.relay.lose()
        await rig.none_held()
        status = await rig.stack.until(
            lambda status: (
                {worker.state for worker in status.workers}
                == {admin_pb2.WORKER_STATE_READY, admin_pb2.WORKER_STATE_UNREACHABLE}
            )
        )
        assert [worker.HasField("load") for worker in status.workers] == [True, False]
        with pytest.raises(UnavailableError) as caught:
            await run
        assert caught.value.reason is Reason.WORKER_LOST


async def test_requests_of_a_silent_worker_go_on_at_another_one(tmp_path: Path) -> None:
    silent, other = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    hosts = [WorkerHost(worker, HOST) for worker in (silent, other)]
    behind, direct = [host.start() for host in hosts]
    async with (
        relaying(behind) as (address, relay),
        routing(write_folder(tmp_path), [address, direct]) as stack,
    ):
        stream = stack.client.stream("x")
        begun = asyncio.ensure_future(anext(stream))
        first = await asyncio.to_thread(silent.wait_for_request)
        silent.say(first, "so f")
        parts = [await begun]
        relay.freeze(to_server=False)
        silent.say(first, "ar, too late", 4)
        moved = await asyncio.to_thread(other.wait_for_request)
        assert moved.prior_token_ids == tuple(b"so f")
        relay.heal()
        other.say(moved, "ar, so good", 4, ends=True)
        parts += [part async for part in stream]
        assert text_of(parts) == "so far, so good"
        await asyncio.to_thread(silent.wait, lambda worker: not worker.live)
    for host in hosts:
        await asyncio.to_thread(host.stop, WITHIN_S)
