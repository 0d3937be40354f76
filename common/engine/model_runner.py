"""Runner of one Batch through the model. Computes; decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from common.engine.batch import Batch
from common.engine.device_copy import HostCopies
from common.engine.memory.block_tables import BlockTables
from common.engine.ragged import Carried, RaggedInputs
from common.engine.sampling.grammar_masks import start_masks
from common.engine.sampling.logprobs import score_prompts
from common.engine.sampling.on_device import sample_on_device
from common.engine.sampling.sampler import Sample, sample
from common.engine.sequence import Sequence
from common.grammar.matcher import MaskFiller


class TokenModel(Protocol):
    """Forward pass over a ragged batch.

    The attention backend alone decides which positions see which: no mask tensor exists, nothing is padded.
    """

    name: str

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Return logits [rows that sample, vocab], float32 or the model's dtype, and store keys and values.

        The next call may write over the logits.
        """


@dataclass(frozen=True, slots=True)
class Launched:
    """Step that was queued.

    `tokens` [len(samplers)] int64 are on the device; None where `result` waits for nothing.
    """

    batch: Batch
    samplers: list[Sequence]
    wait: Callable[[], list[Sample]]
    tokens: torch.Tensor | None = None

    def result(self) -> list[Sample | None]:
        """Return one sample for each entry that reaches its sequence's end, None for the others.

        Waits until the step has run, and for nothing that was queued behind it.
        """
        found = self.wait()
        if len(found) == len(self.batch.entries):
            return list(found)
        by_sequence = dict(zip(self.samplers, found, strict=True))
        return [by_sequence.get(entry.seq) for entry in self.batch.entries]


@dataclass(frozen=True, slots=True)
class Landed:
    """Step that has run, with one sample or None for each of the batch's entries.

    With an `error` it has not run: it raised, and its one entry is to blame.
    """

    batch: Batch
    samples: list[Sample | None]
    start_s: float  # on this process's monotonic clock, not before the end of the step before
    end_s: float
    error: BaseException | None = None


class ModelRunner:
    """Runner from a batch to one sample for each sequence that reaches its end.

    With `copies` (on CUDA) a step whose samplers are all memoryless is queued and not waited for. Its tokens
    are chosen on the device, where the next step finds them, and copied to the host in the background.
    """

    def __init__(
        self,
        model: TokenModel,
        block_size: int,
        eos_token_ids: frozenset[int],
        mask_filler: MaskFiller,
        copies: HostCopies | None = None,
    ) -> None:
        self._model = model
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._mask_filler = mask_filler
        self._copies = copies
        self._tables = BlockTables()

    @property
    def path(self) -> str:
        """Return the name of the forward pass: "fused" or "general"."""
        return self._model.name

    def run(self, batch: Batch) -> list[Sample | None]:
        """Run a step and wait for its samples: `launch`, then `result`."""
        return self.launch(batch).result()

    def launch(self, batch: Batch, previous: Launched | None = None) -> Launched:
        """Queue a step. Tokens in flight are those that `previous`, the step queued last, samples.

        Log-probabilities of prompt tokens are added to the sequences that want them.
        """
        samplers = [entry.seq for entry in batch.entries if entry.samples]
        grammars = start_masks(self._mask_filler, samplers)  # filled while the model runs
        inputs = RaggedInputs.from_batch(batch, self._block_size, self._tables)
        if previous is not None and previous.tokens is not None:
            carried = _carried(batch, inputs, previous.tokens, previous.samplers)
            inputs = replace(inputs, carried=carried)
        logits = self.logits(inputs)
        num_samples = len(samplers)
        if logits.shape[0] > num_samples:
            score_prompts(logits[num_samples:], batch)
            logits = logits[:num_samples]
        elif self._copies is not None and all(seq.is_memoryless for seq in samplers):
            return _leave_on_device(batch, samplers, logits, self._copies)
        found: list[Sample] = []
        if samplers:
            found = sample(logits, samplers, self._eos_token_ids, grammars)
        return Launched(batch, samplers, lambda: found)

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Return logits [rows that sample, vocab], float32 or the model's dtype."""
        return self._model.logits(inputs)


def _leave_on_device(
    batch: Batch, samplers: list[Sequence], logits: torch.Tensor, copies: HostCopies
) -> Launched:
    tokens, finite = sample_on_device(logits, samplers)
    wait = copies.start(torch.stack((tokens, finite.long())))

    def collect() -> list[Sample]:
        token_ids, are_finite = wait().tolist()
        return list(map(Sample, token_ids, map(bool, are_finite)))

    return Launched(batch, samplers, collect, tokens)


def _carried(
    batch: Batch, inputs: RaggedInputs, tokens: torch.Tensor, samplers: list[Sequence]
) -> Carried | None:
    """Return the places of the batch's tokens in flight, each of which the step before samples."""
    in_flight = [
        (place, entry.seq)
        for place, entry in zip(inputs.query_start.tolist(), batch.entries, strict=False)
        if entry.start >= len(entry.seq.token_ids)
    ]
    if not in_flight:
        return None
    rows = {seq: row for row, seq in enumerate(samplers)}
    places = np.array([place for place, _ in in_flight], np.int64)
    sources = np.array([rows[seq] for _, seq in in_flight], np.int64)
    return Carried(places, sources, tokens)
