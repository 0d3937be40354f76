"""Cost of a JSON schema: 16 sequences decoded with and without it, in turns, on the engine alone.

Usage: python -m benchmarks.structured [--rounds N]
"""

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.decode_engine import idle_credit
from benchmarks.environment import describe, write_result
from benchmarks.timed_steps import build_warm
from common.cache_dir import default_cache_dir
from common.config import EngineConfig, TransferConfig
from common.engine.memory.kv_cache import kv_layout
from common.engine.sampling.grammars import Grammars
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.kv_transfer.in_process import InProcessTransport
from common.messages import Grammar, GrammarKind, SamplingParams, StepOutput, WorkRequest
from common.worker.counters import Counters
from decode_worker.engine import DecodeEngine
from decode_worker.inbox import Inbox
from decode_worker.worker import make_scheduler

_SEQUENCES, _PROMPT, _OUTPUT = 16, 64, 128
# lists that do not end within _OUTPUT tokens, so that both sides decode the same number of tokens
_SCHEMAS = (
    """{"type": "array", "minItems": 99, "items": {"type": "object", "additionalProperties": false,
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "member": {"type": "boolean"}},
        "required": ["name", "age", "member"]}}""",
    """{"type": "array", "minItems": 99,
        "items": {"type": "string", "pattern": "^[A-Z][a-z]+( [a-z]+)*$"}}""",
    """{"type": "array", "minItems": 99, "items": {"anyOf": [{"type": "number"}, {"type": "null"},
        {"enum": ["low", "medium", "high"]}, {"type": "array", "items": {"type": "integer"}}]}}""",
    """{"type": "array", "minItems": 99, "items": {"type": "object"}}""",
)


class _Bench:
    """A decode worker's engine, driven by this thread."""

    def __init__(self, model_dir: Path, num_threads: int) -> None:
        config = EngineConfig(max_num_seqs=_SEQUENCES, prefix_cache="off")
        engine = build_warm(model_dir, config, num_threads)
        layout, transport = kv_layout(engine.spec), InProcessTransport({})
        transfer = TransferConfig()
        credit = idle_credit(engine)
        inbox = Inbox(
            engine.prefix, engine.cache, engine.costs, layout, transport, transfer, _nothing, credit
        )
        self._prepared = threading.Semaphore(0)
        grammars = Grammars(model_dir, engine.spec, self._prepared.release)
        self._prefix = engine.prefix
        self._outputs: list[StepOutput] = []
        self._engine = DecodeEngine(
            engine,
            make_scheduler(engine, credit),
            inbox,
            grammars,
            Counters(),
            self._outputs.append,
        )

    def run(self, *, with_schema: bool) -> "_Run":
        """Run all sequences to their ends."""
        start_s = time.perf_counter()
        for index in range(_SEQUENCES):
            request = _request(index, with_schema=with_schema)
            self._engine.submit(self._prefix.new_sequence(request, time.monotonic()))
        for _ in range(_SEQUENCES if with_schema else 0):
            self._prepared.acquire()
        num_tokens, steps_ms = 0, []
        while (step_s := time.perf_counter()) and self._engine.step():
            sequences = [seq for output in self._outputs for seq in output.sequences]
            self._outputs.clear()
            failures = [seq.failure for seq in sequences if seq.failure]
            if failures:
                raise RuntimeError(f"a request failed: {failures[0]}")
            num_tokens += sum(len(seq.token_ids) for seq in sequences)
            steps_ms.append((time.perf_counter() - step_s) * 1e3)
        if num_tokens != _SEQUENCES * _OUTPUT:
            raise RuntimeError(f"{num_tokens} tokens came: the sides are not comparable")
        return _Run(num_tokens / (time.perf_counter() - start_s), statistics.median(steps_ms))


@dataclass(frozen=True, slots=True)
class _Run:
    tokens_per_s: float
    step_ms: float


def main(rounds: Annotated[int, typer.Option(min=1, help="Times each side runs")] = 7) -> None:
    """Measure and write benchmarks/results/structured.json."""
    console = Console()
    model_dir = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    bench = _Bench(model_dir, int(str(describe()["cores"])))
    bench.run(with_schema=False), bench.run(with_schema=True)  # warm-up of lexers and caches
    pairs = [
        (bench.run(with_schema=False), bench.run(with_schema=True))
        for _ in track(range(rounds), description="without, with", console=console)
    ]
    figures = {
        "sequences": _SEQUENCES,
        "output tokens each": _OUTPUT,
        "tokens/s without": statistics.median(free.tokens_per_s for free, _ in pairs),
        "tokens/s with a schema": statistics.median(bound.tokens_per_s for _, bound in pairs),
        "throughput ratio, median of pairs": statistics.median(
            bound.tokens_per_s / free.tokens_per_s for free, bound in pairs
        ),
        "decode step without, ms": statistics.median(free.step_ms for free, _ in pairs),
        "decode step with a schema, ms": statistics.median(bound.step_ms for _, bound in pairs),
    }
    for name, value in figures.items():
        console.print(f"{name}: {value:.3f}")
    console.print(f"written to {write_result('structured', figures).relative_to(Path.cwd())}")


def _request(index: int, *, with_schema: bool) -> WorkRequest:
    prompt = tuple((7 * i + index) % 40_000 + 100 for i in range(_PROMPT))
    schema = _SCHEMAS[index % len(_SCHEMAS)]
    grammar = Grammar(GrammarKind.JSON_SCHEMA, (schema,)) if with_schema else None
    # not 0: at temperature 0 a small model soon repeats itself, and its masks repeat too
    sampling = SamplingParams(0.8, index, _OUTPUT, ignore_eos=not with_schema, grammar=grammar)
    return WorkRequest(str(index), 0, prompt, sampling)


def _nothing() -> None:
    pass


if __name__ == "__main__":
    typer.run(main)
