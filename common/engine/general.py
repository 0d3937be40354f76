"""The general path: any causal LM of `transformers`, its own modules, our attention."""

import torch

from common.engine.attention.backend import AttentionBackend
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
                input_ids=torch.from_numpy(inputs.input_ids)[None].to(self._device),
                position_ids=torch.from_numpy(inputs.positions)[None].to(self._device),
                logits_to_keep=torch.from_numpy(inputs.sample_rows).to(self._device),
                use_cache=False,
                paged_attention=self._backend,
            )
            logits: torch.Tensor = output.logits[0]
        return logits
