"""Engine steps with full and with 8-bit keys and values, in turns.

Usage: python -m benchmarks.quantized_kv [--rounds N] [--threads N]
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.timed_steps import (
    as_prefilled,
    build_warm,
    decode_again_ms,
    medians_in_turns,
    prefill_ms,
    release,
)
from common.cache_dir import default_cache_dir
from common.config import EngineConfig, KVCacheDtype
from common.engine.build import Engine
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_DECODES = ((1, 300), (8, 300), (1, 2000), (8, 2000))  # sequences, context
_PROMPTS = (512, 2000)
_STEPS = 9
_KINDS: tuple[KVCacheDtype, ...] = ("auto", "int8")
_KV_GIB = 0.45  # the most sequences at the longest context
_WORK = (
    *(f"decode {rows} at context {context}" for rows, context in _DECODES),
    *(f"prefill {length}" for length in _PROMPTS),
)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Samples per figure")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="unset: one a core")] = None,
) -> None:
    """Measure and write benchmarks/results/quantized_kv.json."""
    folder = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    cores = threads or len(os.sched_getaffinity(0))
    engines: dict[str, Engine] = {kind: _build(folder, kind, cores) for kind in _KINDS}
    measures = {kind: partial(_measure, engine) for kind, engine in engines.items()}
    medians = medians_in_turns(measures, _WORK, rounds)
    console, table = Console(), Table("KV", "bytes a token", *_WORK)
    figures: dict[str, object] = {"threads": cores}
    for kind, engine in engines.items():
        times_ms = medians[kind]
        ratios = {work: own / medians["auto"][work] for work, own in times_ms.items()}
        figures[engine.spec.stored_as] = {
            "bytes a token": engine.cache.num_bytes_per_token,
            "ms": {work: round(own, 2) for work, own in times_ms.items()},
            "of full KV": {work: round(ratio, 3) for work, ratio in ratios.items()},
        }
        cells = (f"{own:.1f} ({ratios[work]:.2f} x)" for work, own in times_ms.items())
        table.add_row(engine.spec.kv_dtype, str(engine.cache.num_bytes_per_token), *cells)
    path = write_result("quantized_kv", figures)
    console.print(table)
    console.print(f"written to {path.name}")


def _build(folder: Path, kind: KVCacheDtype, threads: int) -> Engine:
    config = EngineConfig(dtype="bfloat16", kv_cache_dtype=kind, kv_cache_gib=_KV_GIB)
    return build_warm(folder, config, threads)


def _measure(engine: Engine) -> list[float]:
    found = []
    for rows, context in _DECODES:
        sequences = [as_prefilled(engine, context) for _ in range(rows)]
        found.append(decode_again_ms(engine, sequences, _STEPS))
        release(engine, sequences)
    return [*found, *(prefill_ms(engine, length) for length in _PROMPTS)]


if __name__ == "__main__":
    typer.run(main)
