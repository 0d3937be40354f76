"""An engine in its thread, for the role that drives it; one role may follow another."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common import failpoints
from common.config import WorkerSpec
from common.engine.build import BUILD_TIMEOUT_S, Engine
from common.engine.device import select_device
from common.engine.profiling.profile_cache import begin_costs, build
from common.engine.sampling.grammars import Compiler, load_compiler
from common.engine.stages import BeginStage, untold
from common.kv_transfer.node_store import UNLIMITED, NodeStore
from common.low_priority import run_at_low_priority, starved
from common.worker.loop import EngineLoop


@dataclass(frozen=True, slots=True)
class EngineHost:
    """The model with its KV memory and profile, and the only thread that may touch them."""

    loop: EngineLoop
    engine: Engine
    store: NodeStore = UNLIMITED  # the node's memory that its KV passes through
    compiler: Compiler | None = None  # of grammars; None where a role builds it when it serves


def build_host(
    spec: WorkerSpec,
    on_crash: Callable[[BaseException], None],
    store: NodeStore = UNLIMITED,
    stage: BeginStage = untold,
) -> EngineHost:
    """Build the engine in its thread, or gently in another one.

    Raises SetupError as `build` does, StarvedError as `run_at_low_priority`.
    """
    loop, compiler = EngineLoop(spec.name, on_crash), None
    if spec.starts_gently and select_device(spec.engine).type == "cpu":
        # numba's number of threads is the calling thread's, and those that it makes get its priority
        from common.engine.cpu.threads import set_num_threads

        loop.call(lambda: set_num_threads(spec.num_threads), BUILD_TIMEOUT_S)
        build_all = partial(_build_with_compiler, spec, stage)
        engine, compiler = run_at_low_priority(build_all, BUILD_TIMEOUT_S)
    else:
        engine = loop.call(lambda: build(spec, stage), BUILD_TIMEOUT_S)
    loop.call(lambda: begin_costs(engine, spec, stage), BUILD_TIMEOUT_S)
    return EngineHost(loop, engine, store, compiler)


def _build_with_compiler(spec: WorkerSpec, stage: BeginStage) -> tuple[Engine, Compiler]:
    """Build what else would be built when the worker serves, at the priority that requests have."""
    _starve_if_told(spec)
    engine = build(spec, stage)
    return engine, load_compiler(spec.model_dir, engine.spec)


def _starve_if_told(spec: WorkerSpec) -> None:
    if failpoints.value("starve_at_start") in (spec.name, spec.role):
        raise starved()
