"""Import of what builds a worker's engine: torch, and all else that takes long. Nothing here imports Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import EngineConfig, WorkerSpec
from common.engine.quick_torch import put_off_parts
from common.engine.stages import BeginStage
from common.kv_transfer.node_store import NodeStore
from deploy.worker_process import OnCrash

if TYPE_CHECKING:
    from common.worker.host import EngineHost

Builder = Callable[[WorkerSpec, OnCrash, NodeStore, BeginStage], "EngineHost"]


def import_builder(model_dir: Path, engine: EngineConfig) -> Builder:
    """Import what the model of a folder takes on this device; return what builds its engine."""
    put_off_parts()
    from common.engine.device import select_device
    from common.engine.weights.choose import import_loader
    from common.worker.host import build_host

    device = select_device(engine)
    import_loader(model_dir, engine, device)
    if device.type == "cpu":
        import common.engine.cpu.threads  # noqa: F401 - numba, 0.3 s; a CUDA worker never needs it
    import decode_worker.worker  # noqa: F401 - a worker may take either role
    import prefill_worker.worker  # noqa: F401

    return build_host
