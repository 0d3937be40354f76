"""The oracle of 8-bit keys and values: `transformers`, whose caches give back what ours would have stored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from common.engine.memory.block_storage import Piece
from common.engine.memory.quantized_kv import LEVELS, Levels
from common.engine.own_rounding import rounded, rounded_kv

# of the distance to a number's own level: float32 sums in another order move a number by less
_AS_NEAR = 1.1


@dataclass(frozen=True)
class StoredLevels(Levels):
    """Levels of a model's own numbers; of two that are as near, the one that an engine has stored.

    A number half way between two levels goes to either, by the order of the sums that it comes from. A tiny
    random model may answer otherwise then: one level of MiniMax's turns its logits by 9 %.
    """

    # keys and values of each layer in turn [tokens, heads, channels]
    stored: Iterator[torch.Tensor]

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` [1, heads, tokens, channels] as words."""
        own = rounded(x, Levels(self.dtype, self.scale_per_size))
        stored = next(self.stored).transpose(0, 1).reshape(x.shape)
        is_as_near = (x - stored).abs() <= _AS_NEAR * (x - own).abs()
        return super().quantize(torch.where(is_as_near, stored, own))


def stored_levels(form: str, kv: Iterable[Piece]) -> StoredLevels:
    """Return the levels of a form, those of `kv` where two are as near."""
    levels = LEVELS[form]
    return StoredLevels(levels.dtype, levels.scale_per_size, chain.from_iterable(kv))


def likeliest_rounded(
    reference: Any, prompt: list[int], answer: list[int], levels: Levels
) -> list[int]:
    """Return what such a model finds likeliest behind the prompt, and behind each token of the answer.

    An answer that is equal to it is the greedy one.
    """
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    with torch.inference_mode(), rounded_kv(reference, levels):
        logits = reference(ids, use_cache=True).logits[0]
    tokens: list[int] = logits[len(prompt) - 1 :].argmax(dim=-1).tolist()
    return tokens
