"""Measurements of a run: decode and prefill steps, then requests."""

from functools import partial

import torch

from benchmarks.gpu.comparison import compare
from benchmarks.gpu.model import engine_config, free_memory, make_engine, random_model
from benchmarks.gpu.report import Report
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.steps import decode_step, fill_kv, prefill_step
from benchmarks.gpu.time_budget import Budget
from common.engine.build import Engine

_USUAL_S = 10.0  # one kind of step, all repetitions


def variants() -> dict[str, dict[str, object]]:
    """Return settings of the engine by name, the default first."""
    return {"graphs": {"cuda_graphs": "auto"}, "no graphs": {"cuda_graphs": "off"}}


def measure_all(scale: Scale, device: torch.device, budget: Budget, report: Report) -> None:
    """Measure all parts, adding results to `report` as they come.

    Raises SetupError if the engine's numbers are wrong.
    """
    budget.announce("random weights")
    free_memory()
    model, spec = random_model(scale.shape, device)
    for name, settings in variants().items():
        engine = make_engine(model, spec, engine_config(scale, device, **settings), device)
        fill_kv(engine)
        _decode(engine, name, scale, budget, report)
        if not report.prefill:  # graphs are for decode only
            _prefill(engine, scale, budget, report)
        del engine
        free_memory()
    config = engine_config(scale, device)
    new_engine = partial(make_engine, model, spec, config, device)
    compare(report.comparison, scale.requests, model, new_engine, budget)


def _decode(engine: Engine, variant: str, scale: Scale, budget: Budget, report: Report) -> None:
    steps = report.decode.setdefault(variant, [])
    for size in scale.batch_sizes:
        if budget.allows(f"decode, batch {size}, {variant}", _USUAL_S):
            steps.append(decode_step(engine, scale, report.machine, size))


def _prefill(engine: Engine, scale: Scale, budget: Budget, report: Report) -> None:
    for length in scale.chunks:
        if budget.allows(f"prefill, {length} tokens", _USUAL_S):
            report.prefill.append(prefill_step(engine, scale, report.machine, length))
