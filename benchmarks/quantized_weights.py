"""Engine steps with full and with quantized weights, in turns.

Usage: python -m benchmarks.quantized_weights [--rounds N] [--threads N]
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.timed_steps import (
    CONTEXT,
    as_prefilled,
    build_warm,
    decode_again_ms,
    medians_in_turns,
    prefill_ms,
)
from common.cache_dir import default_cache_dir
from common.config import EngineConfig, Quantization, Rounding
from common.engine.build import Engine
from common.engine.sequence import Sequence
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_ROWS = (1, 8, 32)
_PROMPT = 512
_STEPS = 9
_KV_GIB = 0.4  # the most rows at CONTEXT
_WORK = (*(f"decode {rows} at context {CONTEXT}" for rows in _ROWS), f"prefill {_PROMPT}")


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Samples per figure")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="unset: one a core")] = None,
) -> None:
    """Measure and write benchmarks/results/quantized_weights.json."""
    folder = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    cores = threads or len(os.sched_getaffinity(0))
    engines = {kind: _build(folder, kind, cores) for kind in ("none", *get_args(Rounding))}
    measures = {kind: partial(_measure, engine, _hold(engine)) for kind, engine in engines.items()}
    figures = _figures(medians_in_turns(measures, _WORK, rounds))
    path = write_result(
        "quantized_weights", {"dtype": engines["none"].spec.dtype, "threads": cores} | figures
    )
    console = Console()
    _print(console, figures)
    console.print(f"written to {path.name}")


def _build(folder: Path, kind: Quantization, threads: int) -> Engine:
    return build_warm(folder, EngineConfig(quantization=kind, kv_cache_gib=_KV_GIB), threads)


def _hold(engine: Engine) -> list[Sequence]:
    return [as_prefilled(engine, CONTEXT) for _ in range(max(_ROWS))]


def _measure(engine: Engine, sequences: list[Sequence]) -> list[float]:
    decode = [decode_again_ms(engine, sequences[:rows], _STEPS) for rows in _ROWS]
    return [*decode, prefill_ms(engine, _PROMPT)]


def _figures(exact: dict[str, dict[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return medians in ms, and their ratios to those of full weights."""
    medians = {
        kind: {work: round(found, 2) for work, found in by_work.items()}
        for kind, by_work in exact.items()
    }
    full = medians["none"]
    ratios = {
        kind: {work: round(found / full[work], 3) for work, found in by_work.items()}
        for kind, by_work in medians.items()
    }
    return {"ms": medians, "of full weights": ratios}


def _print(console: Console, figures: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table("weights", *_WORK)
    for kind, values in figures["ms"].items():
        ratios = figures["of full weights"][kind]
        table.add_row(kind, *(f"{values[work]:.1f} ({ratios[work]:.2f} x)" for work in _WORK))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
