"""TokenModel of a model that has layers with state beside its attention."""

import torch

from common.engine.model_runner import TokenModel
from common.engine.ragged import RaggedInputs
from common.engine.state.mixers import StepStates


class StatefulModel:
    """TokenModel that arranges states around another one's forward pass."""

    def __init__(self, model: TokenModel, states: StepStates) -> None:
        self._model = model
        self._states = states
        self.name = model.name

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits. Raises StateError for a sequence whose state is not there."""
        self._states.begin(inputs)
        try:
            logits = self._model.logits(inputs)
        finally:
            self._states.leave()
        self._states.end()
        return logits
