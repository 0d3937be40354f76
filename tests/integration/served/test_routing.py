"""Placement of the real model's prompts by the default policy, with measured profiles."""

import asyncio
import json
import random
from pathlib import Path

from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.support.commands import run_here
from tests.integration.support.processes import Served
from tests.patience import WITHIN_S

DRAW = random.Random(5)
NUM_DECODING = 8


def prompt(num_tokens: int) -> list[int]:
    """Return a new prompt each time, so that no cache holds it."""
    return [DRAW.randrange(100, 40_000) for _ in range(num_tokens)]


async def ask(client: AsyncClient, name: str, tokens: list[int]) -> inference_pb2.Finished:
    sampling = inference_pb2.SamplingParams(max_tokens=3, ignore_eos=True)
    parts = [part async for part in client.stream(tokens, sampling, request_id=name)]
    return parts[-1].finished


async def decode_busily(client: AsyncClient, is_running: asyncio.Event) -> None:
    """Run eight long answers; signal when all of them are in the batch."""
    sampling = inference_pb2.SamplingParams(max_tokens=2000, ignore_eos=True)
    num_running = 0

    async def one() -> None:
        nonlocal num_running
        async for part in client.stream(prompt(5), sampling):
            num_running += not part.index
            if num_running == NUM_DECODING:
                is_running.set()

    await asyncio.gather(*(one() for _ in range(NUM_DECODING)))


async def decode_load(client: AsyncClient) -> admin_pb2.WorkerLoad:
    workers = (await client.status()).workers
    return next(w.load for w in workers if w.role == admin_pb2.WORKER_ROLE_DECODE)


async def _ask_until_it_runs_on_decode(client: AsyncClient, name: str) -> None:
    """Ask with short prompts: none disturbs another request, and on decode no KV is transferred.

    Profiles that were measured beside a busy neighbour may say otherwise, until the workers have seen better.
    """
    while (await ask(client, name, prompt(12))).prefill_worker:
        pass


async def _route_all(served: Served) -> None:
    async with AsyncClient(served.grpc) as client:
        await asyncio.wait_for(_ask_until_it_runs_on_decode(client, "short"), WITHIN_S)
        is_running = asyncio.Event()
        busy = asyncio.create_task(decode_busily(client, is_running))
        try:
            await asyncio.wait_for(is_running.wait(), WITHIN_S)
            before = await decode_load(client)
            long = await ask(client, "long", prompt(500))
            after = await decode_load(client)
        finally:
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
    # run on decode, it would delay all eight answers there
    assert long.prefill_worker == "prefill-0"
    assert long.timings.kv_bytes > 0
    assert after.prefill_tokens == before.prefill_tokens


def _check_pictures(served: Served, trace: Path) -> None:
    """Check the waterfall, trace and ledger of requests that ran just now."""
    address = ("--address", served.grpc)
    shown = run_here("explain", "long", "short", "--trace", str(trace), *address)
    assert shown.returncode == 0, shown.stderr
    for part in ("prefill-0", "chunk 1", "KV 1", "first step", "ui.perfetto.dev"):
        assert part in shown.stdout
    events = json.loads(trace.read_text())["traceEvents"]
    lanes = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert lanes == {"router", "prefill-0", "KV prefill-0 to decode-0", "decode-0"}
    starts = {e["name"]: e["ts"] for e in events if e["name"] in ("long", "short")}
    assert starts["short"] < starts["long"]
    held = json.loads(run_here("explain", "--blocks", "--json", *address).stdout)["workers"]
    assert [worker["worker"] for worker in held] == ["prefill-0", "decode-0"]
    for worker in held:
        assert worker["blocks"]["unaccounted"] == worker["num_holders"] == 0
        assert worker["blocks"]["free"] == worker["blocks"]["total"] > 0
    refused = run_here("explain", "long", "--trace", str(trace / "below"), *address)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "cannot be written" in refused.stderr


def test_a_short_prompt_runs_where_it_decodes_and_a_long_one_goes_to_the_prefill_worker(
    served_by_default: Served, tmp_path: Path
) -> None:
    asyncio.run(_route_all(served_by_default))
    for name, prefill_worker in (("short", ""), ("long", "prefill-0")):
        result = run_here("explain", name, "--json", "--address", served_by_default.grpc)
        answer = json.loads(result.stdout)
        totals = [route["total_us"] for route in answer["routes"]]
        assert len(totals) == 2
        assert totals[0] == min(totals)
        assert answer["routes"][0]["prefill_worker"] == prefill_worker
        assert answer["finished"][0]["prefill_worker"] == prefill_worker
    _check_pictures(served_by_default, tmp_path / "trace.json")
    unknown = run_here("explain", "never", "--address", served_by_default.grpc)
    assert (unknown.returncode, "never" in unknown.stderr) == (1, True)
