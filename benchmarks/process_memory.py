"""Sampler of processes' memory under load."""

import asyncio
import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import psutil

_EVERY_S = 0.5


@dataclass(slots=True)
class Resident:
    """One process's resident set in bytes, including memory shared with other processes."""

    before: int
    peak: int
    after: int


@contextlib.contextmanager
def watch(pids: Mapping[str, int]) -> Generator[dict[str, Resident]]:
    """Sample the named processes twice a second while the block runs; `after` is the last sample.

    Needs a running event loop.
    """
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    now = {name: process.memory_info().rss for name, process in processes.items()}
    seen = {name: Resident(rss, rss, rss) for name, rss in now.items()}
    task = asyncio.create_task(_sample_on(processes, seen))
    try:
        yield seen
    finally:
        task.cancel()
    _sample(processes, seen)


def _sample(processes: Mapping[str, psutil.Process], seen: dict[str, Resident]) -> None:
    for name, process in processes.items():
        rss, resident = process.memory_info().rss, seen[name]
        resident.peak, resident.after = max(resident.peak, rss), rss


async def _sample_on(processes: Mapping[str, psutil.Process], seen: dict[str, Resident]) -> None:
    while True:
        _sample(processes, seen)
        await asyncio.sleep(_EVERY_S)
