"""Models that raise: with one token, always, or for a while; and engines that run them."""

from collections.abc import Callable
from dataclasses import replace

import torch

from common.engine.build import Engine
from common.engine.model_runner import ModelRunner, TokenModel
from common.engine.ragged import RaggedInputs
from common.engine.raising import RaisingModel


class BreakableModel:
    """Model that raises `error` for as long as there is one, and counts the steps asked of it."""

    def __init__(self, model: TokenModel) -> None:
        self._model = model
        self.name = model.name
        self.error: BaseException | None = None
        self.num_steps = 0

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        self.num_steps += 1
        if self.error is not None:
            raise self.error
        return self._model.logits(inputs)


def with_model(engine: Engine, change: Callable[[TokenModel], TokenModel]) -> Engine:
    """Return the same engine with a changed model."""
    runner = engine.runner
    changed = ModelRunner(
        change(runner._model),
        runner._block_size,
        runner._eos_token_ids,
        runner._mask_filler,
        runner._copies,
    )
    return replace(engine, runner=changed)


def raising_on(token_id: int) -> Callable[[Engine], Engine]:
    """Return an engine that raises in steps that run this token, as far as the host knows them."""
    return lambda engine: with_model(engine, lambda model: RaisingModel(model, token_id))
