"""The general path: any causal LM of `transformers`, its own modules, our attention."""

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.device_copy import to_device
from common.engine.ragged import RaggedInputs


class GeneralModel:
    """Calls the model with one flat sequence `input_ids [1, T]` and explicit positions; see TokenModel."""

    name = "general"

    def __init__(
        self, model: torch.nn.Module, backend: AttentionBackend, device: torch.device
    ) -> None:
        self._model = model
        self._backend = backend
        self._device = device

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """See TokenModel.logits."""
        with torch.inference_mode():
            self._backend.begin(inputs)
            output = self._model(
                input_ids=inputs.ids_on(self._device)[None],
                position_ids=to_device(inputs.positions, self._device)[None],
                logits_to_keep=to_device(inputs.sample_rows, self._device),
                use_cache=False,
                paged_attention=self._backend,
            )
            logits: torch.Tensor = output.logits[0]
        return logits
