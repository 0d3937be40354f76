"""Savings of a shared prefix: time to first token of a hit over a miss, and the lookup's cost.

Usage: python -m benchmarks.prefix
"""

import asyncio
import secrets
import statistics
import time
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.load_generator import closed_loop
from benchmarks.load_targets import PdserveTarget
from benchmarks.pdserve_server import serving
from benchmarks.workload import Work, random_works
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.messages import SamplingParams, WorkRequest
from pdserve.client import AsyncClient

_PREFIX_TOKENS, _SUFFIX_TOKENS, _REQUESTS = 1000, 24, 32
_SYSTEMS = {"colocated": ("--prefill", "0"), "1P1D": ("--prefill", "1")}
_LOOKUPS = 300


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Prefixes for each system")] = 5,
) -> None:
    """Measure, print a table, write benchmarks/results/prefix.json."""
    seed = secrets.randbelow(2**32)
    figures = asyncio.run(_measure(rounds, seed))
    figures["keys and blocks"] = lookup_cost()
    write_result("prefix", {"seed": seed, "figures": figures})
    table = Table("what", "figure", "value", title=f"a prefix of {_PREFIX_TOKENS} tokens")
    for what, values in figures.items():
        for figure, value in values.items():
            table.add_row(what, figure, f"{value:.3g}")
    Console().print(table)


async def _measure(rounds: int, seed: int) -> dict[str, dict[str, float]]:
    figures = {}
    with Progress() as progress:
        for name, args in _SYSTEMS.items():
            task = progress.add_task(name, total=rounds * _REQUESTS)
            advance = partial(progress.advance, task)
            async with serving(DEFAULT_ALIAS, *args) as address, AsyncClient(address) as client:
                target = PdserveTarget(client)
                await closed_loop(target, random_works(4, seed + 99), 1, lambda: None)
                misses, hits = [], []
                for round_number in range(rounds):
                    works = _sharing(seed + round_number)
                    records = await closed_loop(target, works, 1, advance)
                    misses.append(records[0].ttft_s)
                    hits += [record.ttft_s for record in records[1:]]
            miss, hit = statistics.median(misses) * 1e3, statistics.median(hits) * 1e3
            figures[name] = {
                "TTFT of a miss, ms": miss,
                "TTFT of a hit, ms": hit,
                "hit over miss": hit / miss,
            }
    return figures


def _sharing(seed: int) -> list[Work]:
    """Return requests that differ in their last tokens."""
    (prefix,) = random_works(1, seed, (_PREFIX_TOKENS, _PREFIX_TOKENS))
    tails = random_works(_REQUESTS, seed + 1, (_SUFFIX_TOKENS, _SUFFIX_TOKENS), (4, 4))
    return [Work(prefix.prompt_token_ids + tail.prompt_token_ids, 4) for tail in tails]


def lookup_cost() -> dict[str, float]:
    """Return microseconds for 1,000 tokens: to make keys, find them, and register as many.

    Keys are made in the request's thread.
    """
    cache = PrefixCache(BlockPool(100_000, 16), "model")
    keys, lookup, insert = list[float](), list[float](), list[float]()
    for work in random_works(_LOOKUPS, 0, (1009, 1009)):
        for times in (insert, lookup):  # the first pass computes all, the second finds all
            begin_s = time.perf_counter()
            seq = cache.new_sequence(_request(work), 0.0)
            start_s = time.perf_counter()
            cache.reserve(seq, len(work.prompt_token_ids))
            reserved_s = time.perf_counter()
            seq.num_computed_tokens = len(work.prompt_token_ids)
            cache.publish(seq)
            published_s = time.perf_counter()
            keys.append(start_s - begin_s)
            times.append(published_s - reserved_s if times is insert else reserved_s - start_s)
            cache.pool.release(seq.block_table)
    return {
        "keys of 1,000 tokens, us": statistics.median(keys) * 1e6,
        "lookup of 1,000 cached tokens, us": statistics.median(lookup) * 1e6,
        "insert of 1,000 tokens, us": statistics.median(insert) * 1e6,
    }


def _request(work: Work) -> WorkRequest:
    return WorkRequest("r", 1, work.prompt_token_ids, SamplingParams(0.0, 0, 1))


if __name__ == "__main__":
    typer.run(main)
