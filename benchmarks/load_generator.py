"""Load generator: closed loop (a fixed number of users) and open loop (given arrival times)."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.workload import Work

OnDone = Callable[[], None]


class Target(Protocol):
    """A system under load."""

    def stream(self, work: Work) -> AsyncGenerator[int]:
        """Run one request; yields the number of tokens in each message as it arrives."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished request, with times in seconds on one monotonic clock."""

    work: Work
    start_s: float
    token_times_s: tuple[float, ...]  # of messages with tokens

    @property
    def ttft_s(self) -> float:
        """Time from sending to the first token."""
        return self.token_times_s[0] - self.start_s

    @property
    def itl_s(self) -> list[float]:
        """Gaps between messages with tokens."""
        gaps: list[float] = np.diff(self.token_times_s).tolist()
        return gaps

    @property
    def tpot_s(self) -> float:
        """Mean time of an output token after the first."""
        return (self.token_times_s[-1] - self.token_times_s[0]) / max(
            self.work.output_tokens - 1, 1
        )


async def closed_loop(
    target: Target, works: list[Work], users: int, on_done: OnDone
) -> list[Record]:
    """Run `users` users; each sends the next request of the list as soon as its last one ended."""
    queue, records = iter(works), list[Record]()
    await asyncio.gather(*(_user(target, queue, records, on_done) for _ in range(users)))
    return records


async def open_loop(target: Target, works: list[Work], on_done: OnDone) -> list[Record]:
    """Send requests at their arrival times, however many are running."""
    start_s, records = time.perf_counter(), list[Record]()

    async def arrive(work: Work) -> None:
        await asyncio.sleep(start_s + work.arrival_s - time.perf_counter())
        await _user(target, iter((work,)), records, on_done)

    await asyncio.gather(*(arrive(work) for work in works))
    return records


async def _user(
    target: Target, queue: Iterator[Work], records: list[Record], on_done: OnDone
) -> None:
    for work in queue:
        records.append(await run_work(target, work))
        on_done()


async def run_work(target: Target, work: Work) -> Record:
    """Send a request now; return when it has ended. Raises RuntimeError if tokens are missing."""
    start_s, times, tokens = time.perf_counter(), list[float](), 0
    async with aclosing(target.stream(work)) as stream:
        async for count in stream:
            tokens += count
            times.append(time.perf_counter())
    if tokens != work.output_tokens:
        raise RuntimeError(f"asked for {work.output_tokens} tokens, got {tokens}")
    return Record(work, start_s, tuple(times))


def summarise(records: list[Record]) -> dict[str, float]:
    """Return throughput over the whole run, and percentiles in milliseconds."""
    duration_s = max(r.token_times_s[-1] for r in records) - min(r.start_s for r in records)
    ttft = [r.ttft_s * 1000 for r in records]
    itl = [gap * 1000 for r in records for gap in r.itl_s] or [0.0]
    e2e = [(r.token_times_s[-1] - r.start_s) * 1000 for r in records]
    return {
        "output tok/s": sum(r.work.output_tokens for r in records) / duration_s,
        "total tok/s": sum(r.work.total_tokens for r in records) / duration_s,
        "TTFT p50 ms": float(np.percentile(ttft, 50)),
        "TTFT p99 ms": float(np.percentile(ttft, 99)),
        "ITL p50 ms": float(np.percentile(itl, 50)),
        "ITL p99 ms": float(np.percentile(itl, 99)),
        "TPOT p50 ms": float(np.percentile([r.tpot_s * 1000 for r in records], 50)),
        "E2E p99 ms": float(np.percentile(e2e, 99)),
    }
