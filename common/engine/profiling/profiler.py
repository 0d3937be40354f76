"""Measurement of a worker at start-up: real steps and copies, in about two seconds.

All trials run in turns, round after round, and each one's fastest run counts: a machine that starts a
deployment is busy in bursts. The largest steps get more time on a slow machine, since each start measures
anew until one measurement has them. Where even that is too little, the curve continues its last slope.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.sequence import Sequence
from common.engine.state.cache import StateCache
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest
from common.profile import WorkerProfile, count_pairs

_BUDGET_S = 2.0
_LARGEST_BUDGETS = 5  # until the largest steps have run once
_MAX_ROUNDS = 5
_ROW_COUNTS = (1, 8, 32, 128)
_NUM_DECODING = 8
_DECODE_CONTEXT = 256
_LONG_CONTEXT = 1024
_LONG_CHUNK = 64
_COPY_TOKENS = 256
_SAMPLING = SamplingParams(temperature=0.0, seed=0, max_tokens=1)

Trial = Callable[[], object]


def measure_trials(engine: Engine, budget_s: float = _BUDGET_S) -> dict[str, float]:
    """Measure the seconds of each trial by its name. Engine thread only; blocks are free before and after."""
    return _Trials(engine).measure(budget_s)


def to_profile(engine: Engine, seconds: Mapping[str, float]) -> WorkerProfile:
    """Return the costs that follow from the trials' seconds. Raises KeyError when one is missing."""
    return _Trials(engine).to_profile(seconds)


def is_complete(engine: Engine, seconds: Mapping[str, float]) -> bool:
    """Return True if there was time for the largest step too."""
    return _row_trial(largest_step(engine)) in seconds


def largest_step(engine: Engine) -> int:
    """Return the rows of the largest step that can be measured; a complete profile reaches as far."""
    return max(min(engine.limits.max_batch_tokens, _capacity(engine)), 2)


def trial_sizes(engine: Engine) -> tuple[int, ...]:
    """Return the sizes of the trials, on which their times depend."""
    return _Trials(engine).sizes


class _Trials:
    """Trials, sized so that they fit the engine's memory, and the profile that follows from their times."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        pool, limits = engine.pool, engine.limits
        capacity, limit = _capacity(engine), largest_step(engine)
        self._counts = [*(n for n in _ROW_COUNTS if n < limit), limit]
        self._chunk = min(_LONG_CHUNK, limits.max_batch_tokens, capacity // 2)
        self._start = min(_LONG_CONTEXT, capacity - self._chunk)
        self._num_seqs = min(_NUM_DECODING, limits.max_num_seqs, pool.num_blocks)
        # every sequence holds blocks of its own
        own_positions = pool.num_blocks // self._num_seqs * pool.block_size - 1
        self._context = max(min(_DECODE_CONTEXT, own_positions, capacity), 1)
        self._num_copied = min(_COPY_TOKENS, capacity)

    @property
    def sizes(self) -> tuple[int, ...]:
        others = (self._chunk, self._start, self._num_seqs, self._context, self._num_copied)
        return (*self._counts, *others, self._state_bytes)

    @property
    def _state_bytes(self) -> int:
        states = self._engine.states
        return 0 if states is None else states.layout.num_bytes

    def measure(self, budget_s: float) -> dict[str, float]:
        return _fastest(self._needed(), self._rows(self._counts[2:]), budget_s)

    def to_profile(self, best: Mapping[str, float]) -> WorkerProfile:
        limits, cache = self._engine.limits, self._engine.cache
        added_s = max(best["far"] - best["near"], 0.0)
        pair_s = added_s / (self._chunk * self._start)
        counts = [count for count in self._counts if _row_trial(count) in best]
        seconds = _rising(best[_row_trial(count)] - count_pairs(count) * pair_s for count in counts)
        curve = WorkerProfile(tuple(counts), seconds, sample_s=0.0, position_s=0.0)
        num_seqs, state_bytes = self._num_seqs, self._state_bytes
        num_bytes = self._num_copied * cache.num_bytes_per_token + state_bytes
        sample_s = max(best["short"] - curve.decode_step_s(num_seqs, 0), 0.0) / num_seqs
        position_s = max(best["long"] - best["short"], 0.0) / (num_seqs * self._context)
        return WorkerProfile(
            row_counts=curve.row_counts,
            row_seconds=curve.row_seconds,
            sample_s=sample_s,
            position_s=position_s,
            pair_s=pair_s,
            copy_out_byte_s=best["copy out"] / num_bytes,
            insert_byte_s=best["insert"] / num_bytes,
            kv_bytes_per_token=cache.num_bytes_per_token,
            state_bytes=state_bytes,
            max_batch_tokens=limits.max_batch_tokens,
            max_num_seqs=limits.max_num_seqs,
        )

    def _needed(self) -> dict[str, Trial]:
        trials: dict[str, Trial] = self._rows(self._counts[:2])
        trials["near"] = self._prompt(self._chunk, 0)
        trials["far"] = self._prompt(self._chunk, self._start)
        trials["short"] = self._decode(1)
        trials["long"] = self._decode(self._context + 1)
        return trials | self._copies()

    def _rows(self, counts: list[int]) -> dict[str, Trial]:
        return {_row_trial(count): self._prompt(count, 0) for count in counts}

    def _prompt(self, num_tokens: int, start: int) -> Trial:
        return lambda: self._step([_sequence(start, num_tokens)], num_tokens)

    def _decode(self, length: int) -> Trial:
        return lambda: self._step([_sequence(length - 1, 1) for _ in range(self._num_seqs)], 1)

    def _copies(self) -> dict[str, Trial]:
        cache, pool = self._engine.cache, self._engine.pool
        # no sequence is here yet, so these blocks may be overwritten
        blocks = pool.allocate(pool.num_blocks_for(self._num_copied))
        pool.release(blocks)
        payload = cache.read(blocks, 0, self._num_copied)
        read_state, write_state = _state_copies(self._engine.states)

        def copy_out() -> None:
            cache.read(blocks, 0, self._num_copied)
            read_state()

        def insert() -> None:
            cache.write(blocks, 0, payload)
            write_state()

        return {"copy out": copy_out, "insert": insert}

    def _step(self, sequences: list[Sequence], num_tokens: int) -> None:
        pool = self._engine.pool
        try:
            for seq in sequences:
                seq.block_table = pool.allocate(pool.num_blocks_for(len(seq.token_ids)))
            self._engine.runner.run(Batch(tuple(BatchEntry(s, num_tokens) for s in sequences)))
        finally:
            for seq in sequences:
                pool.release(seq.block_table)


def _state_copies(states: StateCache | None) -> tuple[Trial, Trial]:
    """Return the copies of a sequence's state out and in; nobody holds its slot yet."""
    if states is None:
        return _nothing, _nothing
    states.complete(0, 1)
    state = states.read(0, 1)

    def write() -> None:
        states.write(0, 0, state)
        states.complete(0, 1)

    return lambda: states.read(0, 1), write


def _nothing() -> None:
    """Copy no state."""


def _row_trial(count: int) -> str:
    return f"rows {count}"


def _capacity(engine: Engine) -> int:
    """Return the positions of the longest sequence; one stays for the token to run."""
    pool = engine.pool
    return min(pool.num_blocks * pool.block_size, engine.spec.max_context_tokens) - 1


def _sequence(num_computed: int, num_tokens: int) -> Sequence:
    """Make a prompt whose first positions count as computed: any content of their KV costs the same."""
    tokens = (1,) * (num_computed + num_tokens)
    seq = Sequence(WorkRequest("profile", 0, tokens, _SAMPLING), Timeline(arrival_s=0.0))
    seq.num_computed_tokens = num_computed
    return seq


def _fastest(
    needed: dict[str, Trial], optional: dict[str, Trial], budget_s: float
) -> dict[str, float]:
    """Return each trial's shortest time, of several rounds if there is time.

    Each optional trial is about four times the work of the one before it. Those run that end within
    _LARGEST_BUDGETS times the budget.
    """
    deadline_s = time.monotonic() + budget_s
    last_deadline_s = time.monotonic() + _LARGEST_BUDGETS * budget_s
    best = {name: _time(run) for name, run in needed.items()}
    last_s = max(best.values())
    for name, run in optional.items():
        if time.monotonic() + 4 * last_s > last_deadline_s:
            break
        best[name] = last_s = _time(run)
    trials = needed | optional
    for _ in range(_MAX_ROUNDS):
        for name in best:
            if time.monotonic() + best[name] < deadline_s:
                best[name] = min(best[name], _time(trials[name]))
    return best


def _time(run: Trial) -> float:
    start_s = time.monotonic()
    run()
    return time.monotonic() - start_s


def _rising(values: Iterable[float]) -> tuple[float, ...]:
    """Raise each value to the highest before it: more rows never take less time."""
    return tuple(accumulate(values, max))
