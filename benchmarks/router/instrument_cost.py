"""Processor time of metrics and tracing themselves, by the calls that the router makes of them.

Usage: python -m benchmarks.router.instrument_cost. Needs the extra `otel`. Runs of a whole router differ
by more than these cost. So each call runs many times in a row, on this thread's own clock, and the sum is
divided by the processor time that a whole router needed for its tokens, measured in between.
"""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import grpc
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.router.instrument_calls import NUM_TOKENS, Calls, played
from benchmarks.router.processes import running
from benchmarks.router.throughput import measure_throughput, stream_grpc
from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.telemetry.logs import configure_logs
from pdserve.v1 import inference_pb2_grpc

_FIGURE = "gRPC: tokens per second of the router's processor time"
_TIMED_S = 0.2  # of each call, each round


def main(rounds: int = 3, ratio: float = 0.01, scrape_s: float = 15.0) -> None:
    """Measure, print a table, write benchmarks/results/instrument_cost.json."""
    model_dir = resolve_model("smollm2-135m", default_cache_dir(), NoProgress()).path
    us: dict[str, list[float]] = {}
    router_us: list[float] = []
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        configure_logs(process="benchmark")
        calls = played(ratio)
        for _ in range(rounds):
            for name, call in calls.all().items():
                us.setdefault(name, []).append(_time_us(call))
            router_us.append(1e6 / asyncio.run(_tokens_by_cpu_s(model_dir)))
    medians = {name: statistics.median(values) for name, values in us.items()}
    token_us = statistics.median(router_us)
    shares = _shares(calls, medians, ratio, token_us)
    scrape = 1e-6 * sum(medians[name] for name in calls.per_scrape) / scrape_s
    figures = {
        "rounds": rounds,
        "ratio": ratio,
        "tokens of a request": NUM_TOKENS,
        "us of a call": medians,
        "us of the router by token": token_us,
        "share of the router's time": shares,
        f"share of a core, a scrape each {scrape_s:g} s": scrape,
    }
    write_result("instrument_cost", figures)
    table = Table("call", "us", title=f"a token costs the router {token_us:.0f} us")
    for name, value in medians.items():
        table.add_row(name, f"{value:.2f}")
    for name, share in (*shares.items(), (f"scrapes each {scrape_s:g} s", scrape)):
        table.add_row(name, f"{share:.2%}")
    Console().print(table)


def _shares(calls: Calls, us: dict[str, float], ratio: float, token_us: float) -> dict[str, float]:
    """Return what metrics, log lines and tracing take of the router's time a token."""

    def total(names: Iterable[str]) -> float:
        return sum(us[name] for name in names)

    metrics = total(calls.per_token) + total(calls.per_request) / NUM_TOKENS
    tracing = (total(calls.per_decision) + ratio * total(calls.per_sampled)) / NUM_TOKENS
    return {
        "metrics": metrics / token_us,
        "log lines": total(calls.per_line) / NUM_TOKENS / token_us,
        f"traces of {ratio:.0%}": tracing / token_us,
    }


def _time_us(call: Callable[[], object]) -> float:
    """Return the processor time of one call, over as many as take _TIMED_S."""
    num_calls, busy_s = 0, 0.0
    while busy_s < _TIMED_S:
        start_s = time.thread_time()
        for _ in range(100):
            call()
        busy_s += time.thread_time() - start_s
        num_calls += 100
    return 1e6 * busy_s / num_calls


async def _tokens_by_cpu_s(model_dir: Path) -> float:
    async with (
        running(model_dir) as router,
        grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        figures = await measure_throughput("gRPC", partial(stream_grpc, stub), router)
    return figures[_FIGURE]


if __name__ == "__main__":
    typer.run(main)
