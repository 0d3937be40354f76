"""Replacement of every worker, one after another, under load.

Usage: python -m benchmarks.replacement.rolling [--prefill N] [--decode N] [--seconds S]

Four users ask all the time. Their gaps between tokens are measured undisturbed, then while each worker
is replaced as docs/operate/install.md says, then undisturbed again. A new worker of its role joins,
then the old one is drained.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.environment import write_result
from benchmarks.pdserve_server import serving
from benchmarks.replacement.users import Answer, Users, itl_ms, percentile
from common.engine.weights.catalog import DEFAULT_ALIAS
from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2

GOAL_RATIO = 1.5
_USERS, _OUTPUT_TOKENS = 4, 64
_DRAIN_S = 60.0
_KV_GIB = "0.5"
# least_loaded: every worker has requests when it is drained
_MORE = ("--pin", "off", "--policy", "least_loaded")
_PREFILL = admin_pb2.WORKER_ROLE_PREFILL
_Span = tuple[float, float]  # begin and end, monotonic


@dataclass(frozen=True, slots=True)
class Spans:
    """Times of the parts of a run."""

    before: _Span
    during: _Span
    after: _Span


def main(
    prefill: Annotated[int, typer.Option(min=0, help="Prefill workers")] = 2,
    decode: Annotated[int, typer.Option(min=1, help="Decode workers")] = 2,
    seconds: Annotated[float, typer.Option(min=1, help="Each undisturbed part")] = 20,
) -> None:
    """Measure and write benchmarks/results/rolling.json."""
    figures = asyncio.run(_measure(prefill, decode, seconds))
    write_result("rolling", figures)
    Console().print(figures)


async def _measure(prefill: int, decode: int, seconds: float) -> dict[str, object]:
    command = (DEFAULT_ALIAS, "--prefill", str(prefill), "--decode", str(decode), *_MORE)
    async with (
        serving(*command, PDSERVE_ENGINE__KV_CACHE_GIB=_KV_GIB) as address,
        AsyncClient(address) as client,
    ):
        users = Users(client, _OUTPUT_TOKENS, seed=1)
        async with users.asking(_USERS):
            # warm before anything counts
            await users.until(lambda _: len(users.answers) >= 2 * _USERS, _DRAIN_S)
            before = await _undisturbed(seconds)
            during = await _replace_all(client)
            after = await _undisturbed(seconds)
    return {"workers": f"{prefill}P{decode}D"} | summarise(
        users.answers, Spans(before, during, after)
    )


async def _undisturbed(seconds: float) -> _Span:
    start_s = time.monotonic()
    await asyncio.sleep(seconds)
    return start_s, time.monotonic()


async def _replace_all(client: AsyncClient) -> _Span:
    """Replace every worker; return the time that it took. Raises RuntimeError if one is still there."""
    old = (await client.status()).workers
    numbers = {role: sum(worker.role == role for worker in old) for role in {w.role for w in old}}
    start_s = time.monotonic()
    for worker in old:
        one_more = numbers[worker.role] + 1
        steps = (
            client.scale(prefill=one_more)
            if worker.role == _PREFILL
            else client.scale(decode=one_more)
        )
        async for _ in steps:
            pass
        await client.drain(worker.name, timeout_s=_DRAIN_S)
    end_s = time.monotonic()
    new = (await client.status()).workers
    is_whole = all(sum(w.role == role for w in new) == n for role, n in numbers.items())
    if not is_whole or {w.pid for w in new} & {w.pid for w in old}:
        raise RuntimeError(f"not all were replaced: {[w.name for w in new]}")
    return start_s, end_s


def summarise(answers: Sequence[Answer], spans: Spans) -> dict[str, object]:
    """Return lost requests, and gaps between tokens in each part, in milliseconds."""
    gaps = {
        "before": itl_ms(answers, *spans.before),
        "during": itl_ms(answers, *spans.during),
        "after": itl_ms(answers, *spans.after),
    }
    undisturbed = percentile(gaps["before"] + gaps["after"], 99)
    lost = [answer.error for answer in answers if answer.is_lost]
    return {
        "requests": len(answers),
        "lost": len(lost),
        "errors": lost[:10],
        "replacement, s": round(spans.during[1] - spans.during[0], 1),
        "ITL p50, ms": {name: percentile(part, 50) for name, part in gaps.items()},
        "ITL p99, ms": {name: percentile(part, 99) for name, part in gaps.items()},
        "largest gap, ms": {name: percentile(part, 100) for name, part in gaps.items()},
        "p99 during / undisturbed": round(percentile(gaps["during"], 99) / undisturbed, 2),
        "goal of the ratio": GOAL_RATIO,
    }


if __name__ == "__main__":
    typer.run(main)
