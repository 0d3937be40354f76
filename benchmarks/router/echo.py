"""Latency that the machine itself adds: the router's traffic through a process that echoes it.

For each message the echo also counts, for as long as the router computes for a token. So its latencies
are those of any process with as much to do, on a machine whose cores may be slow for moments.

Usage: python -m benchmarks.router.echo SECONDS_OF_WORK; prints its port, ends with its input.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import threading
import time
import timeit
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.router.processes import RouterProcess
from benchmarks.router.worker_double import NUM_WORKERS, STEP_S

_ROUNDS = 300  # steps of each worker
_SKIPPED = 25  # first ones, while the connections open
_STAMP = 16  # bytes of a message: its time in nanoseconds, in digits


async def measure_echo(num_streams: int, cpu_s: float) -> dict[str, float]:
    """Return the latencies of as many streams, each of which gets a message a step, in turns.

    `cpu_s`: seconds of a core, at its usual speed, that each message costs the echo.
    """
    bare = await _measure(num_streams, 0.0)
    busy = await _measure(num_streams, max(cpu_s - bare.cpu_s, 0.0))
    return {
        "bare echo: p99, ms": bare.p99_ms,
        "echo as busy as OpenAI's: messages per second of its processor time": 1 / busy.cpu_s,
        "echo as busy as OpenAI's: p50, ms": busy.p50_ms,
        "echo as busy as OpenAI's: p99, ms": busy.p99_ms,
    }


@dataclass(frozen=True, slots=True)
class _Echoed:
    cpu_s: float  # of the echo, a message
    p50_ms: float
    p99_ms: float


async def _measure(num_streams: int, work_s: float) -> _Echoed:
    """Measure an echo that computes for `work_s` seconds more than its input and output take."""
    async with _echo(work_s) as (process, port), contextlib.AsyncExitStack() as stack:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(num_streams)]
        for _, writer in opened:
            stack.callback(writer.close)
        latencies_s, cpu_s = list[float](), process.cpu_s()
        reading = [asyncio.create_task(_read(reader, latencies_s)) for reader, _ in opened]
        await _send([writer for _, writer in opened])
        await asyncio.wait_for(asyncio.gather(*reading), 60)
        cpu_s = (process.cpu_s() - cpu_s) / (num_streams * _ROUNDS)
    p50, p99 = np.percentile(latencies_s, (50, 99)) * 1e3
    return _Echoed(cpu_s, float(p50), float(p99))


async def _send(writers: list[asyncio.StreamWriter]) -> None:
    next_s = time.monotonic()
    for number in range(_ROUNDS * NUM_WORKERS):
        await asyncio.sleep(max(next_s - time.monotonic(), 0))
        next_s += STEP_S / NUM_WORKERS
        for writer in writers[number % NUM_WORKERS :: NUM_WORKERS]:
            writer.write(f"{time.monotonic_ns():0{_STAMP}d}".encode())


async def _read(reader: asyncio.StreamReader, latencies_s: list[float]) -> None:
    for number in range(_ROUNDS):
        sent_ns = int(await reader.readexactly(_STAMP))
        if number >= _SKIPPED:
            latencies_s.append((time.monotonic_ns() - sent_ns) / 1e9)


@contextlib.asynccontextmanager
async def _echo(work_s: float) -> AsyncGenerator[tuple[RouterProcess, int]]:
    """Run the echo on the first core, and this process on the others."""
    first, *others = cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [first])
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"{__package__}.echo", str(work_s), stdin=pipe, stdout=pipe
    )
    os.sched_setaffinity(0, others or [first])
    try:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        yield RouterProcess(process), int(await asyncio.wait_for(process.stdout.readline(), 60))
    finally:
        process.terminate()
        await process.wait()
        os.sched_setaffinity(0, cores)


async def _serve(work_s: float) -> None:
    server = await asyncio.start_server(partial(_answer, _rounds(work_s)), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_end, daemon=True).start()
    await ended.wait()


async def _answer(
    num_rounds: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while data := await reader.read(4096):
        for _ in range(num_rounds * (len(data) // _STAMP)):
            pass
        writer.write(data)


def _rounds(work_s: float) -> int:
    """Return the rounds of an empty loop that take as long, by the median of some tries."""
    tries = [timeit.timeit("for _ in range(1000): pass", number=1) for _ in range(1001)]
    return round(work_s / statistics.median(tries) * 1000)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
