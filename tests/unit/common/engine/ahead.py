"""An engine that runs ahead of its tokens as on a GPU, on the CPU."""

from collections.abc import Callable
from dataclasses import replace

import torch

from common.engine.build import Engine
from common.engine.device_copy import HostCopies
from common.engine.model_runner import ModelRunner


class HeldCopies:
    """Double of a GPU's copies to the host: a tensor that is there, and handed over on request."""

    def __init__(self) -> None:
        self.num_started = 0
        self.num_waited = 0

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Implement HostCopies.start."""
        self.num_started += 1

        def wait() -> torch.Tensor:
            self.num_waited += 1
            return tensor

        return wait


def ahead(engine: Engine, copies: HostCopies | None = None) -> Engine:
    """Return the same engine, whose samples stay with the device until they are asked for."""
    runner = engine.runner
    late = ModelRunner(
        runner._model,
        runner._block_size,
        runner._eos_token_ids,
        runner._mask_filler,
        copies or HeldCopies(),
    )
    return replace(engine, runner=late)
