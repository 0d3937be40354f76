"""Peak memory that a batch will need before its sequences end. Plain numbers."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Footprint:
    """One sequence: its tokens now, the tokens expected to come, its blocks that others brought in."""

    num_tokens: int
    num_remaining: int
    num_shared_blocks: int


def peak_blocks(footprints: SequenceOf[Footprint], block_size: int) -> int:
    """Return the blocks of their own that the sequences hold at the worst moment, if all go on together.

    A sequence grows by a token a step and gives everything back at its end. So the worst moment is just
    before one of them ends (Past-Future scheduler, Gong et al. 2025): by then all that end no sooner have
    grown by the same number of tokens.
    """
    tokens = np.array([f.num_tokens for f in footprints])
    remaining = np.array([f.num_remaining for f in footprints])
    shared = np.array([f.num_shared_blocks for f in footprints])
    is_alive = remaining[None, :] >= remaining[:, None]  # [moment, sequence]
    blocks = -(-(tokens[None, :] + remaining[:, None]) // block_size) - shared[None, :]
    return int((blocks * is_alive).sum(axis=1).max())
