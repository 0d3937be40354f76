"""Timed single steps of an engine: decode steps by batch size, and prompts in chunks."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.progress import track

from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine, build_engine
from common.engine.limits import choose_limits
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest

CHUNK = choose_limits(EngineConfig()).max_batch_tokens
CONTEXT = 300


def build_warm(model_dir: Path, config: EngineConfig, num_threads: int) -> Engine:
    """Return an engine whose KV memory is there, so that no step pays for its first touch."""
    engine = build_engine(model_dir, config, num_threads)
    taking = engine.cache.take_memory()
    if taking is not None:
        taking.join()
    return engine


def medians_in_turns(
    measures: Mapping[str, Callable[[], list[float]]], works: tuple[str, ...], rounds: int
) -> dict[str, dict[str, float]]:
    """Return the medians in ms by kind, then by work; a measure returns one time for each work.

    Kinds take turns, `rounds` times after a first one, which touches the memory and does not count.
    """
    samples = {kind: {work: list[float]() for work in works} for kind in measures}
    for turn in track(range(rounds + 1), description="rounds"):
        for kind, measure in measures.items():
            for work, elapsed_ms in zip(works, measure(), strict=True):
                if turn:
                    samples[kind][work].append(elapsed_ms)
    return {
        kind: {work: statistics.median(found) for work, found in by_work.items()}
        for kind, by_work in samples.items()
    }


def decode_ms(engine: Engine, batch_size: int) -> float:
    """Return the median time in ms of a decode step of `batch_size` sequences at CONTEXT."""
    sequences = [prefilled(engine, CONTEXT, index) for index in range(batch_size)]
    median_ms = decode_again_ms(engine, sequences, 20)
    release(engine, sequences)
    return median_ms


def decode_again_ms(engine: Engine, sequences: list[Sequence], steps: int) -> float:
    """Return the median time in ms of one decode step, repeated with unchanged sequences."""
    batch = Batch(tuple(BatchEntry(seq, 1) for seq in sequences))
    samples = []
    for _ in range(steps):
        start_s = time.perf_counter()
        engine.runner.run(batch)
        samples.append((time.perf_counter() - start_s) * 1000)
    return statistics.median(samples)


def prefill_ms(engine: Engine, length: int) -> float:
    """Return the time in ms of one prompt in chunks of CHUNK."""
    start_s = time.perf_counter()
    seq = prefilled(engine, length, 1)
    elapsed_ms = (time.perf_counter() - start_s) * 1000
    release(engine, [seq])
    return elapsed_ms


def prefilled(engine: Engine, length: int, salt: int) -> Sequence:
    """Return a sequence whose prompt has run and whose first token is sampled."""
    seq = _sequence(engine, length, salt)
    while seq.num_uncomputed_tokens > 1 or not seq.num_output_tokens:
        step(engine, [(seq, min(CHUNK, seq.num_uncomputed_tokens))])
    return seq


def as_prefilled(engine: Engine, length: int) -> Sequence:
    """Return a sequence that counts as prefilled; KV contents do not affect the time."""
    seq = _sequence(engine, length, 0)
    seq.num_computed_tokens = length - 1
    return seq


def step(engine: Engine, work: list[tuple[Sequence, int]]) -> None:
    """Run the given number of tokens of each sequence, in one batch."""
    entries = tuple(BatchEntry(seq, num_tokens) for seq, num_tokens in work)
    samples = engine.runner.run(Batch(entries))
    for entry, sample in zip(entries, samples, strict=True):
        entry.seq.num_computed_tokens += entry.num_tokens
        if sample is not None:
            entry.seq.append(sample.token_id, frozenset())


def release(engine: Engine, sequences: list[Sequence]) -> None:
    """Free the sequences' blocks."""
    for seq in sequences:
        engine.pool.release(seq.block_table)


def _sequence(engine: Engine, length: int, salt: int) -> Sequence:
    prompt = tuple((7 * i + salt) % 40_000 + 100 for i in range(length))
    request = WorkRequest(str(salt), 0, prompt, SamplingParams(0.0, 0, 10_000))
    seq = Sequence(request, Timeline(0.0))
    seq.block_table = engine.pool.allocate(engine.pool.num_blocks_for(length + 64))
    return seq
