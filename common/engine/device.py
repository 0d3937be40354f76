"""Device that an engine runs on."""

import torch

from common.config import EngineConfig
from pdserve.errors import SetupError


def select_device(config: EngineConfig) -> torch.device:
    """Choose the device to run on. Raises SetupError when it is asked for and absent."""
    # a process that has asked for CUDA must not be forked, as the template is
    has_cuda = config.device != "cpu" and torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise SetupError("engine.device 'cuda' is not available", "this machine has: cpu")
    return torch.device("cuda" if has_cuda else "cpu")
