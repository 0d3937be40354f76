"""Host work of a decode worker's thread: scheduling, flattening, sampling, bookkeeping."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from benchmarks.decode_engine import decode_engine, idle_credit
from common.engine.build import Engine
from common.engine.model_runner import ModelRunner
from common.grammar.matcher import MaskFiller
from common.messages import SamplingParams, WorkRequest
from decode_worker.worker import make_scheduler

_CONTEXT, _STEPS = 300, 60
P = ParamSpec("P")
T = TypeVar("T")


class _Timed(Generic[P, T]):
    """A function, and the seconds of its last call."""

    def __init__(self, function: Callable[P, T]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        start_s = time.perf_counter()
        result = self._function(*args, **kwargs)
        self.seconds = time.perf_counter() - start_s
        return result


class _TimedModel:
    """The engine's model as a timed TokenModel."""

    name = "timed"

    def __init__(self, engine: Engine) -> None:
        self.logits = _Timed(engine.runner.logits)


def host_work(engine: Engine, model_dir: Path, num_seqs: int) -> dict[str, float]:
    """Return medians over decode steps of `num_seqs` sequences.

    Figures are the scheduler's time in us, and all work but the model's in ms.
    """
    model = _TimedModel(engine)
    mask_filler = MaskFiller(engine.spec.vocab_size)
    runner = ModelRunner(model, engine.pool.block_size, frozenset(), mask_filler)
    timed = replace(engine, runner=runner)
    scheduler = make_scheduler(engine, idle_credit(engine))
    schedule = _Timed(scheduler.schedule)
    scheduler.schedule = schedule  # type: ignore[method-assign]
    worker = decode_engine(timed, scheduler, model_dir, lambda _: None)
    for index in range(num_seqs):
        worker.submit(engine.prefix.new_sequence(_request(index), time.monotonic()))
    while scheduler.num_waiting_tokens:
        worker.step()
    schedule_us, host_ms = [], []
    for _ in range(_STEPS):
        start_s = time.perf_counter()
        worker.step()
        elapsed_s = time.perf_counter() - start_s
        schedule_us.append(schedule.seconds * 1e6)
        host_ms.append((elapsed_s - model.logits.seconds) * 1e3)
    for index in range(num_seqs):
        worker.cancel(str(index))
    worker.close()
    return {
        f"scheduler at {num_seqs} sequences, us": statistics.median(schedule_us),
        f"all but the model at {num_seqs} sequences, ms": statistics.median(host_ms),
    }


def _request(index: int) -> WorkRequest:
    prompt = tuple((7 * i + index) % 40_000 + 100 for i in range(_CONTEXT))
    sampling = SamplingParams(0.0, 0, _STEPS * 10, ignore_eos=True)
    return WorkRequest(str(index), 0, prompt, sampling)
