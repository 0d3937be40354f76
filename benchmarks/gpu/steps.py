"""Single steps against their limits: decode against memory, prefill against matrix units."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks.gpu.breakdown import Share, profile
from benchmarks.gpu.lower_bounds import decode_bytes, prefill_flops
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import Times, measure
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest

_GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=2, ignore_eos=True)
_TOKENS = range(100, 40_000)


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of step; `size` is a decode step's batch size, or a prefill step's prompt length."""

    size: int
    limit_s: float  # time at the measured rates
    times: Times
    shares: list[Share]  # of the device's time; none on a CPU

    @property
    def fraction(self) -> float:
        """The fraction of the limit by the host's clock, including sampling and all waits."""
        return self.limit_s / self.times.host_s

    @property
    def device_fraction(self) -> float:
        """The fraction of the limit by the device's clock."""
        return self.limit_s / self.times.device_s

    def to_json(self) -> dict[str, object]:
        """Return the values for the results file."""
        return {**asdict(self), "fraction": self.fraction}


def fill_kv(engine: Engine) -> None:
    """Fill the whole KV cache with random keys and values."""
    engine.cache.keys.normal_()
    engine.cache.values.normal_()


def decode_step(engine: Engine, scale: Scale, machine: Machine, batch_size: int) -> Step:
    """Measure one token each for `batch_size` sequences with blocks scattered in memory."""
    with decode_batch(engine, batch_size, scale.context) as batch:
        limit_s = decode_bytes(scale.shape, batch_size, scale.context) / machine.bandwidth
        return _measure(engine, batch, batch_size, limit_s, scale.repeats)


def prefill_step(engine: Engine, scale: Scale, machine: Machine, length: int) -> Step:
    """Measure a whole prompt of `length` tokens in one step."""
    blocks = engine.pool.allocate(engine.pool.num_blocks_for(length))
    try:
        batch = Batch((BatchEntry(_sequence(length, blocks), length),))
        limit_s = prefill_flops(scale.shape, length) / machine.matmul_rate
        return _measure(engine, batch, length, limit_s, scale.repeats)
    finally:
        engine.pool.release(blocks)


@contextmanager
def decode_batch(engine: Engine, batch_size: int, context: int) -> Iterator[Batch]:
    """Yield a batch for the next token of `batch_size` sequences, each with `context` positions."""
    pool = engine.pool
    blocks = pool.allocate(pool.num_free)
    shuffled = random.Random(batch_size).sample(blocks, len(blocks))
    each = pool.num_blocks_for(context)
    sequences = [_sequence(context, shuffled[i * each : (i + 1) * each]) for i in range(batch_size)]
    for seq in sequences:
        seq.num_computed_tokens = context - 1
    try:
        yield Batch(tuple(BatchEntry(seq, 1) for seq in sequences))
    finally:
        pool.release(blocks)


def _sequence(length: int, block_table: list[int]) -> Sequence:
    prompt = tuple(random.Random(block_table[0]).choices(_TOKENS, k=length))
    seq = Sequence(WorkRequest("step", 0, prompt, _GREEDY), Timeline(0.0))
    seq.block_table = block_table
    return seq


def _measure(engine: Engine, batch: Batch, size: int, limit_s: float, repeats: int) -> Step:
    def run() -> None:
        # sampled tokens are dropped, so that each repetition is the same step
        engine.runner.run(batch)

    device = engine.cache.keys.device
    times = measure(run, device, repeats)
    return Step(size, limit_s, times, profile(run) if device.type == "cuda" else [])
