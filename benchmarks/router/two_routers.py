"""Two routers behind one OpenAI port against one, each with the same share of a core.

Usage: python -m benchmarks.router.two_routers. On two cores, two whole routers would compete with
worker doubles and clients. So each router may use only a share of the first core, and gets more
tokens than it can forward with it. Clients and doubles have the other core, and time to spare there.
Both arms run in every round, in turns.
"""

import asyncio
import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.cpu_share import cpu_share
from benchmarks.router.http_stream import opened, token_ids
from benchmarks.router.processes import RouterProcess, running_together
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_MAX_TOKENS = 8000  # of a stream, more than it gets meanwhile
_START_S, _SETTLE_S = 60.0, 3.0
_USED = 0.9  # of its share, by a router that has more tokens than it can forward
_TOKENS, _BY_CPU, _BUSY = "tokens/s", "tokens by CPU second", "routers, percent of a core"


@dataclass(slots=True)
class _Counted:
    streams: int = 0  # that have a token
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Load:
    """Share of a core and number of streams of each router; seconds that are counted."""

    share: float
    streams: int
    seconds: float


def main(rounds: int = 3, share: float = 0.2, streams: int = 96, seconds: float = 10.0) -> None:
    """Measure in turns, print a table, write benchmarks/results/two_routers.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    load = _Load(share, streams, seconds)
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for number in range(rounds):
        for num_routers in (1, 2) if number % 2 == 0 else (2, 1):
            found[num_routers].append(asyncio.run(_turn(model_dir, num_routers, load)))
    one, two = ({name: _median(runs, name) for name in runs[0]} for runs in found.values())
    scaling = {name: two[name] / one[name] for name in (_TOKENS, _BY_CPU)}
    figures = {"one": found[1], "two": found[2], "two over one": scaling}
    write_result("two_routers", {"rounds": rounds, "share": share, "streams": streams, **figures})
    table = Table("figure", "one", "two", "two over one", title="routers behind one port")
    for name in one:
        table.add_row(name, f"{one[name]:.4g}", f"{two[name]:.4g}", f"{two[name] / one[name]:.3g}")
    Console().print(table)


def _median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


async def _turn(model_dir: Path, num_routers: int, load: _Load) -> dict[str, float]:
    counted = _Counted()
    async with running_together(model_dir, num_routers) as routers:
        port = routers[0].openai_port
        wanted = num_routers * load.streams
        streams = [asyncio.create_task(_stream(port, counted)) for _ in range(wanted)]
        async with asyncio.timeout(_START_S):
            while counted.streams < wanted:
                await asyncio.sleep(0.1)
        with contextlib.ExitStack() as limits:
            for router in routers:  # from now on, since a start takes seconds of processor time
                if load.share < 1:
                    limits.enter_context(cpu_share(router.process.pid, load.share))
            await asyncio.sleep(_SETTLE_S)
            figures = await _count(routers, counted, load.seconds)
        for stream in streams:
            if stream.done():
                stream.result()
                raise RuntimeError("a stream ended while it was measured")
            stream.cancel()
    if load.share < 1 and figures[_BUSY] < 100 * _USED * load.share * num_routers:
        raise RuntimeError(
            f"the routers used {figures[_BUSY]:.0f} % of a core, and not their whole shares: "
            "the machine is busy, or there are too few streams"
        )
    return figures


async def _stream(port: int, counted: _Counted) -> None:
    async with opened(port, max_tokens=_MAX_TOKENS) as reader:
        is_first = True
        async for found in token_ids(reader):
            counted.streams += is_first
            counted.tokens += len(found)
            is_first = False


async def _count(
    routers: list[RouterProcess], counted: _Counted, seconds: float
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    start_s, tokens, cpu_s = loop.time(), counted.tokens, [r.cpu_s() for r in routers]
    await asyncio.sleep(seconds)
    wall_s, tokens = loop.time() - start_s, counted.tokens - tokens
    busy_s = [r.cpu_s() - before for r, before in zip(routers, cpu_s, strict=True)]
    return {
        _TOKENS: tokens / wall_s,
        _BY_CPU: tokens / sum(busy_s),
        _BUSY: 100 * sum(busy_s) / wall_s,
    }


if __name__ == "__main__":
    typer.run(main)
