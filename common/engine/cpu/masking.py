"""Masks on logits in host memory; same contract as grammar_masks.py's torch form."""

import numpy as np
import torch

from common.engine.cpu import masking_kernel
from common.engine.cpu.arrays import Array, as_array
from common.engine.sampling.grammar_masks import FORBIDDEN


def mask_logits(logits: torch.Tensor, rows: list[int], masks: Array) -> None:
    """Row i of `masks` [len(rows), words] belongs to row rows[i] of `logits` [n, vocab]."""
    forbidden = np.float32(FORBIDDEN[logits.dtype])
    masking_kernel.mask_logits(as_array(logits), np.array(rows), masks, forbidden)
