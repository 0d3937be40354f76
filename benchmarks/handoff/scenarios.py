"""Scenarios of `benchmarks.handoff`; each returns figures, and the gaps between tokens."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from benchmarks.load_generator import OnDone, Record, Target, closed_loop, open_loop
from benchmarks.load_targets import PdserveTarget
from benchmarks.workload import Work, random_works
from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2

_RATE_PER_S, _ARRIVALS = 1.5, 60
_USERS, _USER_REQUESTS, _USER_OUTPUT = 8, 16, 200
_FLOOD_TOKENS, _FLOOD_EVERY_S = 2000, 2.0
HANDOFF_LENGTHS = (256, 512, 1024, 2000)
_HANDOFF_REPEATS = 8


@dataclass(slots=True)
class Outcome:
    """One scenario on one server: figures, and each token's (seconds since start, gap in ms)."""

    figures: dict[str, float]
    gaps: list[tuple[float, float]] = field(default_factory=list)


async def steady_arrivals(target: Target, seed: int, on_done: OnDone) -> Outcome:
    """Open loop at 1.5 requests/s, inputs 128-384, outputs 32-96."""
    works = random_works(_ARRIVALS, seed, rate_per_s=_RATE_PER_S)
    records = await open_loop(target, works, on_done)
    ttft = np.percentile([record.ttft_s * 1e3 for record in records], 50)
    return Outcome({**_itl(records), "TTFT p50 ms": float(ttft)})


async def flood(target: Target, seed: int, on_done: OnDone) -> Outcome:
    """Decode for 8 users, first alone, then while a prompt of 2,000 tokens arrives every 2 s."""
    quiet = await _decode_users(target, seed, on_done)
    async with _beside(_send_floods(target, seed)):
        flooded = await _decode_users(target, seed + 1, on_done)
    figures = {f"quiet {name}": value for name, value in _itl(quiet).items()}
    figures |= {f"flood {name}": value for name, value in _itl(flooded).items()}
    figures["flood p99 over quiet p99"] = figures["flood ITL p99 ms"] / figures["quiet ITL p99 ms"]
    return Outcome(figures, _gaps(flooded))


async def handoffs(client: AsyncClient, seed: int, on_done: OnDone) -> Outcome:
    """Measure hand-offs of pdserve by prompt length, beside 4 users.

    A hand-off lasts from the end of the last prefill chunk to the first decode step.
    """
    background = random_works(16, seed + 7, (128, 128), (2000, 2000))
    figures = {}
    async with _beside(closed_loop(PdserveTarget(client), background, 4, lambda: None)):
        for length in HANDOFF_LENGTHS:
            seen = []
            for work in random_works(_HANDOFF_REPEATS, seed + length, (length, length), (4, 4)):
                seen.append(await _handoff_ms(client, work.prompt_token_ids))
                on_done()
            figures[f"{length} tokens, p50 ms"] = float(np.percentile(seen, 50))
    return Outcome(figures)


NUM_REQUESTS = {
    "1.5 requests/s": _ARRIVALS,
    "flood": 2 * _USER_REQUESTS,
    "hand-off": len(HANDOFF_LENGTHS) * _HANDOFF_REPEATS,
}


@asynccontextmanager
async def _beside(work: Coroutine[None, None, object]) -> AsyncIterator[None]:
    """Run `work` in the background.

    Raises its error, or RuntimeError if it ends before the block.
    """
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            await task
            raise RuntimeError("the work beside it ended early")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _decode_users(target: Target, seed: int, on_done: OnDone) -> list[Record]:
    works = random_works(_USER_REQUESTS, seed, (128, 128), (_USER_OUTPUT, _USER_OUTPUT))
    return await closed_loop(target, works, _USERS, on_done)


async def _send_floods(target: Target, seed: int) -> None:
    """Send prompts for ever; nobody waits for the answers."""
    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            works = random_works(1, seed + 1000 + number, (_FLOOD_TOKENS, _FLOOD_TOKENS), (2, 2))
            group.create_task(_send(target, works))
            await asyncio.sleep(_FLOOD_EVERY_S)


async def _send(target: Target, works: list[Work]) -> None:
    await closed_loop(target, works, 1, lambda: None)


async def _handoff_ms(client: AsyncClient, prompt: tuple[int, ...]) -> float:
    sampling = inference_pb2.SamplingParams(max_tokens=4, ignore_eos=True)
    async for response in client.stream(prompt, sampling):
        if response.HasField("finished"):
            return response.finished.timings.handoff_us / 1e3
    raise RuntimeError("the stream ended without a summary")


def _itl(records: list[Record]) -> dict[str, float]:
    gaps = [gap * 1e3 for record in records for gap in record.itl_s]
    p50, p99 = (float(np.percentile(gaps, share)) for share in (50, 99))
    return {"ITL p50 ms": p50, "ITL p99 ms": p99, "ITL p99 over p50": p99 / p50}


def _gaps(records: list[Record]) -> list[tuple[float, float]]:
    start_s = min(record.start_s for record in records)
    return sorted(
        (at_s - start_s, gap_s * 1e3)
        for record in records
        for at_s, gap_s in zip(record.token_times_s[1:], record.itl_s, strict=True)
    )
