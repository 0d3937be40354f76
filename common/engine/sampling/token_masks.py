"""Masks of a step: the tokens that each row may be, by grammar and bans together."""

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch

from common.engine.sampling.bans import Bits, TokenBans
from common.engine.sampling.grammar_masks import PendingMasks, mask_kernel
from common.engine.sequence import Sequence
from common.grammar.matcher import Masks


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """Masks of the rows `rows` of a step's logits; row i of `masks` is that of rows[i]."""

    rows: list[int]
    masks: Masks

    def apply(self, logits: torch.Tensor, places: Mapping[int, int]) -> None:
        """Set forbidden tokens to FORBIDDEN, in place; what is NaN or infinite stays so.

        Row r of the step lies at `places[r]` of `logits` [n, vocab]; rows without a place are left out.
        """
        chosen = [i for i, row in enumerate(self.rows) if row in places]
        if chosen:
            there = [places[self.rows[i]] for i in chosen]
            masks = self.masks if len(chosen) == len(self.rows) else self.masks[chosen]
            mask_kernel(logits.device)(logits, there, masks)

    @property
    def closed_rows(self) -> list[int]:
        """Rows that have no token left."""
        is_open = self.masks.any(axis=1)
        return [] if is_open.all() else [self.rows[i] for i in np.flatnonzero(~is_open)]


def find_masks(
    grammars: PendingMasks | None,
    sequences: SequenceOf[Sequence],
    special: list[int],
    eos_token_ids: frozenset[int],
    vocab_size: int,
) -> TokenMasks | None:
    """Wait for the grammars' masks, and take the bans of the rows `special` from them.

    Row i of the step is `sequences[i]`'s. Returns None if no token is forbidden anywhere.
    """
    bans = {
        row: bits
        for row in special
        if sequences[row].has_bans
        and (bits := _allowed(sequences[row], eos_token_ids, vocab_size)) is not None
    }
    if grammars is None:
        return TokenMasks(list(bans), np.array([*bans.values()]).view(np.int32)) if bans else None
    found = dict(zip(grammars.rows, grammars.masks.result(), strict=True))
    for row, bits in bans.items():
        mask = bits.view(np.int32)
        found[row] = found[row] & mask if row in found else mask
    return TokenMasks(list(found), np.array([*found.values()]))


def _allowed(seq: Sequence, eos_token_ids: frozenset[int], vocab_size: int) -> Bits | None:
    if seq.bans is None:
        seq.bans = TokenBans(seq.sampling, eos_token_ids, vocab_size)
    return seq.bans.allowed(seq.token_ids, seq.num_output_tokens)
