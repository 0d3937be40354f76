"""Run of a list of requests, all known at the start, through a decode worker's engine."""

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.decode_engine import decode_engine, idle_credit
from benchmarks.workload import Work
from common.engine.build import Engine
from common.messages import SamplingParams, StepOutput, WorkRequest
from decode_worker.worker import make_scheduler


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one system. If it was cut off, its rate is an upper bound: tokens are missing."""

    seconds: float
    is_whole: bool = True


def run_engine(engine: Engine, warm_up: list[Work], works: list[Work]) -> Run:
    """Run with the decode worker's own scheduler; prompts run in chunks beside decode."""
    _through_engine(engine, warm_up)
    return Run(_through_engine(engine, works))


def _through_engine(engine: Engine, works: list[Work]) -> float:
    failures: list[str] = []
    finished = 0

    def publish(output: StepOutput) -> None:
        nonlocal finished
        for news in output.sequences:
            finished += news.finish_reason is not None
            failures.extend([news.failure.message] if news.failure else [])

    worker = decode_engine(engine, make_scheduler(engine, idle_credit(engine)), Path(), publish)
    start_s = time.perf_counter()
    for index, work in enumerate(works):
        worker.submit(engine.prefix.new_sequence(_request(index, work), time.monotonic()))
    while finished + len(failures) < len(works):
        worker.step()
    seconds = time.perf_counter() - start_s
    worker.close()
    if failures:
        raise RuntimeError(f"{len(failures)} requests failed: {failures[0]}")
    return seconds


def _request(index: int, work: Work) -> WorkRequest:
    sampling = SamplingParams(0.0, 0, work.output_tokens, ignore_eos=True)
    return WorkRequest(str(index), 0, work.prompt_token_ids, sampling)
