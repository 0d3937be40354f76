"""Grammar masks on logits in host memory; same contract as masking.py's torch form."""

import numpy as np
import torch

from common.engine.cpu import masking_kernel
from common.engine.cpu.arrays import Array, as_array

_FORBIDDEN = np.float32(-1e30)


def mask_logits(logits: torch.Tensor, rows: list[int], masks: Array) -> None:
    """Row i of `masks` [len(rows), words] belongs to row rows[i] of `logits` [n, vocab]."""
    masking_kernel.mask_logits(as_array(logits), np.array(rows), masks, _FORBIDDEN)
