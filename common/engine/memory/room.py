"""Memory that a worker finds when it starts, on the host or on a GPU."""

from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.memory.gpu_share import GpuRoom
from common.engine.memory.host_budget import HostRoom
from common.engine.memory.worker_share import WorkerShare
from common.engine.weights.size import weights_bytes

Room = HostRoom | GpuRoom
_WHOLE = WorkerShare()


def read_room(
    config: EngineConfig,
    device: torch.device,
    share: WorkerShare = _WHOLE,
    model_dir: Path | None = None,
) -> Room:
    """Read the memory that there is now; `model_dir` holds weights that will be loaded, None: they are there.

    The dtype of `config` is chosen already.
    """
    if device.type == "cpu":
        return HostRoom.read(model_dir, config, share)
    return GpuRoom.read(device, share, weights_bytes(model_dir, config.dtype) if model_dir else 0)
