"""Failpoints of one token: a model that raises, or kills its process, since none is known that does.

The token must be none of those that an engine tries at its start (self_check.py, profiling/profiler.py).
"""

import os
import signal
from typing import NoReturn

import torch

from common import failpoints
from common.engine.model_runner import TokenModel
from common.engine.ragged import RaggedInputs


def with_failpoint(model: TokenModel) -> TokenModel:
    """Return the same model, or one that fails on the failpoint's token where a failpoint is active."""
    if (token_id := failpoints.value("exit_on_token")) is not None:
        model = KillingModel(model, int(token_id))
    token_id = failpoints.value("step_raises_on_token")
    return model if token_id is None else RaisingModel(model, int(token_id))


class _FailingModel:
    """TokenModel that fails in each step that runs one token."""

    def __init__(self, model: TokenModel, token_id: int) -> None:
        self._model = model
        self._token_id = token_id
        self.name = model.name

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        if (inputs.input_ids == self._token_id).any():
            self.fail()
        return self._model.logits(inputs)

    def fail(self) -> None:
        """Fail in the way of the failpoint."""
        raise NotImplementedError


class RaisingModel(_FailingModel):
    """TokenModel that raises RuntimeError in each step that runs one token."""

    def fail(self) -> NoReturn:
        """Raise RuntimeError."""
        raise RuntimeError("the failpoint step_raises_on_token")


class KillingModel(_FailingModel):
    """TokenModel that kills its process in a step that runs one token, as a bad kernel would."""

    def fail(self) -> None:
        """Kill the process."""
        os.kill(os.getpid(), signal.SIGKILL)
