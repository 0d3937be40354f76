"""Runs one Batch through the model. Computes; decides nothing."""

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.batch import Batch
from common.engine.ragged import RaggedInputs
from common.engine.sampler import Sample, sample


class ModelRunner:
    """Owns the model and its attention backend.

    The model sees one flat sequence `input_ids [1, T]` with explicit positions; who may see whom is the
    attention backend's affair, so no mask tensor exists and nothing is padded.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        backend: AttentionBackend,
        block_size: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._backend = backend
        self._block_size = block_size
        self._device = device

    @property
    def backend_name(self) -> str:
        """Which attention backend runs."""
        return self._backend.name

    def run(self, batch: Batch) -> list[Sample | None]:
        """One sample for each entry that reaches its sequence's end, None for the others."""
        inputs = RaggedInputs.from_batch(batch, self._block_size)
        logits = self.logits(inputs)
        samplers = [entry.seq for entry in batch.entries if entry.samples]
        samples = iter(sample(logits, samplers) if samplers else [])
        return [next(samples) if entry.samples else None for entry in batch.entries]

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Forward pass; float32 logits [rows that sample, vocab]."""
        with torch.inference_mode():
            self._backend.begin(inputs)
            output = self._model(
                input_ids=torch.from_numpy(inputs.input_ids)[None].to(self._device),
                position_ids=torch.from_numpy(inputs.positions)[None].to(self._device),
                logits_to_keep=torch.from_numpy(inputs.sample_rows).to(self._device),
                use_cache=False,
                paged_attention=self._backend,
            )
            logits: torch.Tensor = output.logits[0].float()
        return logits
