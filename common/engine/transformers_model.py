"""General path: any causal LM of `transformers`, its own modules, our attention."""

import torch

from common.engine.attention.alibi import take_over_alibi
from common.engine.attention.backend import AttentionBackend
from common.engine.attention.by_cache import HandingCache, cache_for
from common.engine.attention.cycles import take_over_cycles
from common.engine.attention.differential import take_over_differential
from common.engine.attention.indexed import attend_to_all
from common.engine.attention.own_positions import take_over_positions
from common.engine.attention.shared_modules import name_layers
from common.engine.attention.temperature import take_over
from common.engine.attention.without_cache import take_over_without_cache
from common.engine.device_inputs import ToDevice
from common.engine.ragged import RaggedInputs


class TransformersModel:
    """TokenModel that calls `transformers` with one flat sequence `input_ids [1, T]` and positions."""

    name = "general"

    def __init__(
        self, model: torch.nn.Module, backend: AttentionBackend, to_device: ToDevice
    ) -> None:
        self._model = model
        self._backend = backend
        self._to_device = to_device
        take_over_alibi(model, backend)
        take_over_cycles(model)
        take_over_differential(model, backend)
        take_over_without_cache(model, backend)
        self._step = take_over_positions(model)
        attend_to_all(model)
        name_layers(model)
        self._tells_positions = take_over(model)
        self._cache = cache_for(model, backend)
        self._ways = _ways(self._cache, backend)

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        step = self._to_device(inputs)
        with torch.inference_mode():
            self._backend.begin(step)
            self._step.positions = step.positions
            if self._cache is not None:
                self._cache.positions = step.positions
            told = {"token_positions": step.positions} if self._tells_positions else {}
            output = self._model(
                input_ids=step.input_ids[None],
                position_ids=step.positions[None],
                logits_to_keep=step.sample_rows,
                **self._ways,
                **told,
            )
            logits: torch.Tensor = output.logits[0]
            if len(logits) != len(step.sample_rows):  # the model knows no logits_to_keep
                logits = logits[step.sample_rows]
            # the CPU's sampling kernels are compiled for float32 alone
            return logits.float() if logits.is_cpu else logits


def _ways(cache: HandingCache | None, backend: AttentionBackend) -> dict[str, object]:
    """Return the keywords that bring `backend` to the model's layers."""
    if cache is None:
        return {"use_cache": False, "paged_attention": backend}
    return {"use_cache": True, "past_key_values": cache}
