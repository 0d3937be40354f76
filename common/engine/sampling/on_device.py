"""Sampling that queues work on the device and waits for none of it, for sequences that are memoryless.

The tokens are those of sampler.sample: the same operations in the same order, of which these sequences need
few.
"""

from collections.abc import Sequence as SequenceOf

import numpy as np
import torch

from common.engine.device_copy import to_device
from common.engine.sampling import torch_kernels
from common.engine.sampling.noise import noise_key
from common.engine.sampling.options import Truncation
from common.engine.sampling.sampler import COLDEST
from common.engine.sequence import Sequence


def sample_on_device(
    logits: torch.Tensor, sequences: SequenceOf[Sequence]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token for each row of `logits` [n, vocab]; row i belongs to `sequences[i]`, all memoryless.

    Returns tokens int64 [n], always of the vocabulary, and whether their rows were finite, bool [n].
    """
    tokens, finite = torch_kernels.greedy(logits)
    warm = [row for row, seq in enumerate(sequences) if seq.sampling.temperature > 0]
    for is_truncated in (False, True):
        rows = [row for row in warm if sequences[row].sampling.is_truncated == is_truncated]
        if rows:
            asking = [sequences[row] for row in rows]
            index = to_device(np.array(rows), logits.device)
            tokens.index_copy_(0, index, _draw(logits.index_select(0, index), asking))
    return tokens, finite


def _draw(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Draw for sequences with a temperature, all of them truncated or none."""
    temperatures = [max(seq.sampling.temperature, COLDEST) for seq in sequences]
    keys = [noise_key(seq.sampling.seed, seq.next_position) for seq in sequences]
    if sequences[0].sampling.is_truncated:
        logits = logits.float()
        torch_kernels.truncate(logits, Truncation.of(sequences, temperatures))
    return torch_kernels.draw(logits, np.array(temperatures), keys)
