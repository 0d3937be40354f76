"""Form of attention: numbers that decide a layer's scores and which positions it sees."""

from dataclasses import dataclass

import torch

CHUNKS, SOFTCAP = "chunks of attention", "a soft cap on scores"
SINKS, ALIBI = "attention sinks", "ALiBi biases"
ALIBI_FAMILIES = {"bloom", "mpt"}  # alibi.py replaces their modules


class UnsupportedAttentionError(ValueError):
    """Raised where a layer asks for attention that a backend does not honour; names layer and feature."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionForm:
    """Form of one layer's attention, the same in every step.

    A score is scale * q . k. A position sees earlier ones and itself, as `window` and `chunk` allow.
    """

    scale: float
    window: int | None = None  # positions that a query sees, itself included; None: all
    chunk: int | None = None  # a query sees its own chunk of so many positions; None: all
    softcap: float | None = None  # a score s becomes softcap * tanh(s / softcap)
    sinks: torch.Tensor | None = None  # [heads] float32: scores of a position without a value
    slopes: torch.Tensor | None = None  # [heads] float32: ALiBi adds -slope * distance to a score

    @property
    def is_plain(self) -> bool:
        """True where nothing but the scale and a window makes the form."""
        return not self.extras

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of what makes the form other than plain, in words for messages."""
        named = {CHUNKS: self.chunk, SOFTCAP: self.softcap, SINKS: self.sinks, ALIBI: self.slopes}
        return tuple(name for name, value in named.items() if value is not None)
