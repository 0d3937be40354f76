"""An engine in its thread, for the role that drives it; one role may follow another."""

from collections.abc import Callable
from dataclasses import dataclass

from common.config import WorkerSpec
from common.engine.build import BUILD_TIMEOUT_S, Engine
from common.engine.profiling.profile_cache import build_profiled
from common.engine.stages import BeginStage, untold
from common.kv_transfer.node_store import UNLIMITED, NodeStore
from common.worker.loop import EngineLoop


@dataclass(frozen=True, slots=True)
class EngineHost:
    """The model with its KV memory and profile, and the only thread that may touch them."""

    loop: EngineLoop
    engine: Engine
    store: NodeStore = UNLIMITED  # the node's memory that its KV passes through


def build_host(
    spec: WorkerSpec,
    on_crash: Callable[[BaseException], None],
    store: NodeStore = UNLIMITED,
    stage: BeginStage = untold,
) -> EngineHost:
    """Build the engine in its thread. Raises SetupError as build_engine does."""
    loop = EngineLoop(spec.name, on_crash)
    return EngineHost(loop, loop.call(lambda: build_profiled(spec, stage), BUILD_TIMEOUT_S), store)
