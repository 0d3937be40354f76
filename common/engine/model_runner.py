"""Runs one Batch through the model. Computes; decides nothing."""

from typing import Protocol

import torch

from common.engine.batch import Batch
from common.engine.logprobs import score_prompts
from common.engine.masking import start_masks
from common.engine.ragged import RaggedInputs
from common.engine.sampler import Sample, sample
from common.grammar.matcher import MaskFiller


class TokenModel(Protocol):
    """A forward pass over a ragged batch.

    Who may see whom is the attention backend's affair: no mask tensor exists and nothing is padded.
    """

    name: str

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """[rows that sample, vocab], float32 or the model's dtype; keys and values are stored on the way."""


class ModelRunner:
    """From a batch to one sample for each sequence that reaches its end."""

    def __init__(
        self,
        model: TokenModel,
        block_size: int,
        eos_token_ids: frozenset[int],
        mask_filler: MaskFiller,
    ) -> None:
        self._model = model
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._mask_filler = mask_filler

    def run(self, batch: Batch) -> list[Sample | None]:
        """One sample for each entry that reaches its sequence's end, None for the others.

        Log-probabilities of prompt tokens are added to the sequences that want them.
        """
        samplers = [entry.seq for entry in batch.entries if entry.samples]
        masks = start_masks(self._mask_filler, samplers)  # filled while the model runs
        logits = self.logits(RaggedInputs.from_batch(batch, self._block_size))
        num_samples = len(samplers)
        found = []
        if samplers:
            found = sample(logits[:num_samples], samplers, self._eos_token_ids, masks)
        if len(logits) > num_samples:
            score_prompts(logits[num_samples:], batch)
        if num_samples == len(batch.entries):
            return list(found)
        samples = iter(found)
        return [next(samples) if entry.samples else None for entry in batch.entries]

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Logits [rows that sample, vocab], float32 or the model's dtype."""
        return self._model.logits(inputs)
