"""Matchers, each one sequence's state in its grammar, and the masks of many of them at once.

A matcher's state is a function of the grammar and of the output tokens accepted so far, of nothing else. So a
sequence that is preempted, handed off or begun anew elsewhere gets the same masks, hence the same tokens.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

_WORD = 32
_MAX_MESSAGE_CHARS = 300

# [n, ceil(vocab / 32)]: bit t % 32 of word t // 32 of a row says whether token t may come next
Masks = NDArray[np.int32]


class GrammarMatcher:
    """State of one sequence in its grammar; dropped with it. Used by one thread at a time."""

    def __init__(self, state: LLMatcher, vocab_size: int) -> None:
        """Start with `state`, made with a tokenizer of `vocab_size` tokens."""
        self.state = state
        self.vocab_size = vocab_size

    def accept(self, token_id: int) -> None:
        """Advance by a token that the mask allowed."""
        self.state.consume_token(token_id)

    @property
    def is_complete(self) -> bool:
        """True if the text matches and nothing more can follow it."""
        return self.state.is_stopped() and not self.state.is_error()

    @property
    def error(self) -> str | None:
        """Reason why the grammar cannot be followed any further, for good; None if it can."""
        return one_line(self.state.get_error()) or None


class MaskFiller:
    """Filler of masks in the background, without the GIL, while the model runs.

    One thread fills them one after the other. On a CPU the model has all the cores, and each further thread
    that competes with it (as in llguidance's LLExecutor) costs more than it saves.
    """

    def __init__(self, vocab_size: int) -> None:
        """Fill masks for `vocab_size` logits; tokens that only the tokenizer knows are masked out."""
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, "grammar-masks")

    def start(self, matchers: Sequence[GrammarMatcher]) -> "Future[Masks]":
        """Begin to fill one row a matcher; nobody may touch the matchers until the result is there.

        A matcher that fails says so itself (`error`); its row allows everything, so that the others' sampling
        goes on as if nothing were wrong.
        """
        return self._thread.submit(self._fill, tuple(matchers))

    def _fill(self, matchers: tuple[GrammarMatcher, ...]) -> Masks:
        num_words = _num_words(matchers[0].vocab_size)
        masks = np.zeros((len(matchers), num_words), np.int32)
        row_bytes = num_words * masks.itemsize
        for index, matcher in enumerate(matchers):
            matcher.state.unsafe_compute_mask_ptr(masks.ctypes.data + index * row_bytes, row_bytes)
        masks = np.ascontiguousarray(masks[:, : _num_words(self._vocab_size)])
        if self._vocab_size % _WORD:
            masks[:, -1] &= np.int32((1 << self._vocab_size % _WORD) - 1)
        failed = [row for row, matcher in enumerate(matchers) if matcher.error]
        masks[failed] = -1
        return masks


def one_line(message: str) -> str:
    """Return an error of llguidance as one line, fit for a client."""
    text = " ".join(message.replace("<non-verbose/>", "").split())
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[:_MAX_MESSAGE_CHARS] + "..."


def _num_words(vocab_size: int) -> int:
    return -(-vocab_size // _WORD)
