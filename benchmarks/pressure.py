"""Load with all the KV memory that it needs, and with half of it, in turns.

Usage: python -m benchmarks.pressure
"""

import asyncio
import secrets
import statistics
from contextlib import AsyncExitStack
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.load_generator import closed_loop, summarise
from benchmarks.load_targets import PdserveTarget
from benchmarks.pdserve_server import serving
from benchmarks.workload import Work, random_works
from common.engine.weights.catalog import DEFAULT_ALIAS
from pdserve.client import AsyncClient

_USERS, _REQUESTS = 32, 128
_BLOCK_SIZE, _TOKEN_BYTES = 16, 2 * 30 * 3 * 64 * 2  # K and V, layers, kv_heads, head_dim, bfloat16
_COMMAND = (DEFAULT_ALIAS, "--prefill", "0", "--dtype", "bfloat16")
Figures = dict[str, dict[str, list[float]]]  # by server and figure, one value a round


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each server runs")] = 3,
) -> None:
    """Measure, print a table, write benchmarks/results/pressure.json."""
    seed = secrets.randbelow(2**32)
    works = [random_works(_REQUESTS, seed + number) for number in range(rounds)]
    wanted = max(wanted_blocks(part) for part in works)
    figures, preemptions = asyncio.run(_measure(works, wanted))
    medians = {
        server: {figure: statistics.median(values) for figure, values in kept.items()}
        for server, kept in figures.items()
    }
    write_result(
        "pressure",
        {"seed": seed, "blocks wanted": wanted, "medians": medians, "rounds": figures}
        | {"preemptions": preemptions},
    )
    _print(medians, preemptions, wanted)


def wanted_blocks(works: list[Work]) -> int:
    """Return the KV blocks of the largest batch: consecutive requests at their full lengths."""
    blocks = [-(-work.total_tokens // _BLOCK_SIZE) for work in works]
    return max(sum(blocks[at : at + _USERS]) for at in range(len(blocks) - _USERS + 1))


async def _measure(works: list[list[Work]], wanted: int) -> tuple[Figures, dict[str, int]]:
    figures: Figures = {}
    async with AsyncExitStack() as stack:
        clients = {}
        for name, blocks in (("all it wants", wanted), ("half", wanted // 2)):
            # a little more, since the count of blocks is rounded down
            gib = (blocks + 0.5) * _BLOCK_SIZE * _TOKEN_BYTES / 2**30
            server = serving(*_COMMAND, PDSERVE_ENGINE__KV_CACHE_GIB=str(gib))
            address = await stack.enter_async_context(server)
            clients[name] = await stack.enter_async_context(AsyncClient(address))
            target = PdserveTarget(clients[name])
            await closed_loop(target, random_works(4, 99), 1, lambda: None)
        with Progress() as progress:
            task = progress.add_task("rounds", total=len(works) * 2 * _REQUESTS)
            for part in works:
                for name, client in clients.items():
                    target = PdserveTarget(client)
                    records = await closed_loop(
                        target, part, _USERS, lambda: progress.advance(task)
                    )
                    for figure, value in summarise(records).items():
                        figures.setdefault(name, {}).setdefault(figure, []).append(value)
        preemptions = {name: await _preemptions(client) for name, client in clients.items()}
    return figures, preemptions


async def _preemptions(client: AsyncClient) -> int:
    return sum(worker.load.preemptions for worker in (await client.status()).workers)


def _print(medians: dict[str, dict[str, float]], preemptions: dict[str, int], wanted: int) -> None:
    table = Table("figure", *medians, "ratio", title=f"{_USERS} users, {wanted} blocks wanted")
    base, half = medians.values()
    for figure, value in base.items():
        table.add_row(figure, f"{value:.0f}", f"{half[figure]:.0f}", f"{half[figure] / value:.2f}")
    table.add_row("preemptions", *map(str, preemptions.values()), "")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
