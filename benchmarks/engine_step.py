"""The engine alone, and a cold start of the server: step times, activation memory, time to first token.

Usage: python -m benchmarks.engine_step [--repeats N]
"""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.environment import describe, write_result
from benchmarks.host_work import host_work
from benchmarks.server import first_token_after_start
from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.engine import Engine, build_engine
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.engine.weights.cache import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.request import SamplingParams, WorkRequest

_CHUNK = EngineConfig().max_batch_tokens
_CONTEXT = 300
Figures = dict[str, float]


def main(repeats: Annotated[int, typer.Option(min=3, help="Samples per figure")] = 7) -> None:
    """Measure and write benchmarks/results/engine_step.json."""
    console = Console()
    model_dir = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    cores = int(str(describe()["cores"]))
    figures: dict[str, Figures] = {}
    for threads in sorted({1, cores}):
        engine = build_engine(model_dir, EngineConfig(), threads)
        figures[f"{threads} thread(s)"] = _measure_steps(engine, repeats)
    figures["host work"] = host_work(build_engine(model_dir, EngineConfig(), cores), model_dir, 64)
    figures["activation MiB"] = _measure_memory(build_engine(model_dir, EngineConfig(), cores))
    figures["server"] = _measure_start(model_dir)
    path = write_result("engine_step", figures)
    _print(console, figures)
    console.print(f"written to {path.relative_to(Path.cwd())}")


def _measure_steps(engine: Engine, repeats: int) -> Figures:
    figures: Figures = {}
    for batch_size in track((1, 8, 32), description="decode steps"):
        figures[f"decode {batch_size} at context {_CONTEXT}, ms"] = _decode_ms(engine, batch_size)
    for length in track((512, 2000), description="prefill"):
        samples = [_timed_prefill(engine, length) for _ in range(repeats)]
        figures[f"prefill {length}, ms"] = statistics.median(samples)
    return figures


def _measure_memory(engine: Engine) -> Figures:
    """Peak of live tensor memory during a whole prefill, KV apart (it is allocated beforehand)."""
    return {
        f"prefill {length} in chunks of {_CHUNK}": _peak_mib(engine, length)
        for length in track((1000, 2000, 4000, 8000), description="activation memory")
    }


def _measure_start(model_dir: Path) -> Figures:
    samples = [
        asyncio.run(first_token_after_start(DEFAULT_ALIAS))
        for _ in track(range(3), description="cold starts")
    ]
    return {"start of serve to first token, s": statistics.median(samples)}


def _sequence(engine: Engine, length: int, salt: int) -> Sequence:
    prompt = tuple((7 * i + salt) % 40_000 + 100 for i in range(length))
    request = WorkRequest(str(salt), 0, prompt, SamplingParams(0.0, 0, 10_000))
    seq = Sequence(request, Timeline(0.0))
    seq.block_table = engine.pool.allocate(engine.pool.num_blocks_for(length + 64))
    return seq


def _prefilled(engine: Engine, length: int, salt: int) -> Sequence:
    seq = _sequence(engine, length, salt)
    while seq.num_uncomputed_tokens > 1 or not seq.num_output_tokens:
        _step(engine, [(seq, min(_CHUNK, seq.num_uncomputed_tokens))])
    return seq


def _step(engine: Engine, work: list[tuple[Sequence, int]]) -> None:
    entries = tuple(BatchEntry(seq, num_tokens) for seq, num_tokens in work)
    samples = engine.runner.run(Batch(entries))
    for entry, sample in zip(entries, samples, strict=True):
        entry.seq.num_computed_tokens += entry.num_tokens
        if sample is not None:
            entry.seq.append(sample.token_id, frozenset())


def _decode_ms(engine: Engine, batch_size: int) -> float:
    sequences = [_prefilled(engine, _CONTEXT, index) for index in range(batch_size)]
    work = [(seq, 1) for seq in sequences]
    samples = []
    for _ in range(20):
        start_s = time.perf_counter()
        _step(engine, work)
        samples.append((time.perf_counter() - start_s) * 1000)
    _release(engine, sequences)
    return statistics.median(samples)


def _timed_prefill(engine: Engine, length: int) -> float:
    start_s = time.perf_counter()
    seq = _prefilled(engine, length, 1)
    elapsed_ms = (time.perf_counter() - start_s) * 1000
    _release(engine, [seq])
    return elapsed_ms


def _peak_mib(engine: Engine, length: int) -> float:
    # acc_events: newer profilers drop earlier cycles' events otherwise
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        _release(engine, [_prefilled(engine, length, 1)])
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


def _release(engine: Engine, sequences: list[Sequence]) -> None:
    for seq in sequences:
        engine.pool.release(seq.block_table)


def _print(console: Console, figures: dict[str, Figures]) -> None:
    table = Table("what", "figure", "value")
    for group, values in figures.items():
        for name, value in values.items():
            table.add_row(group, name, f"{value:.1f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
