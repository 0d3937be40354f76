"""All parts of a run: the machine, decode and prefill steps of each variant of the engine, requests."""

import torch

from benchmarks.gpu.budget import Budget
from benchmarks.gpu.comparison import compare
from benchmarks.gpu.machine import Machine, measure_machine
from benchmarks.gpu.model import engine_config, free_memory, make_engine, random_model
from benchmarks.gpu.report import Report
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.steps import Step, decode_step, fill_kv, prefill_step
from common.engine.engine import Engine

_USUAL_S = 10.0  # one kind of step, all repetitions
VARIANTS: dict[str, dict[str, object]] = {"as it comes": {}}  # settings of the engine


def measure_all(scale: Scale, device: torch.device, budget: Budget) -> Report:
    """Raises SetupError when the engine finds its own numbers wrong."""
    budget.announce("memory bandwidth and products")
    machine = measure_machine(scale, device)
    report = Report(machine, scale.context, left_out=budget.left_out)
    budget.announce("random weights")
    model, spec = random_model(scale.shape, device)
    for name, settings in VARIANTS.items():
        engine = make_engine(model, spec, engine_config(scale, device, **settings), device)
        fill_kv(engine)
        report.decode[name] = _decode(engine, name, scale, machine, budget)
        report.prefill[name] = _prefill(engine, name, scale, machine, budget)
        del engine
        free_memory()
    config = engine_config(scale, device)
    report.comparison = compare(
        scale.requests, model, lambda: make_engine(model, spec, config, device), budget
    )
    return report


def _decode(
    engine: Engine, variant: str, scale: Scale, machine: Machine, budget: Budget
) -> list[Step]:
    return [
        decode_step(engine, scale, machine, size)
        for size in scale.batch_sizes
        if budget.allows(f"decode, batch {size}, {variant}", _USUAL_S)
    ]


def _prefill(
    engine: Engine, variant: str, scale: Scale, machine: Machine, budget: Budget
) -> list[Step]:
    return [
        prefill_step(engine, scale, machine, length)
        for length in scale.chunks
        if budget.allows(f"prefill, {length} tokens, {variant}", _USUAL_S)
    ]
