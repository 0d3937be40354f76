"""Tokens that a request's options forbid at its next place, apart from its grammar."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from common.messages import SamplingParams

_WORD = 32

# [ceil(vocab / 32)]: bit t % 32 of word t // 32 says whether token t may come next
Bits = NDArray[np.uint32]


class TokenBans:
    """The bans of one sequence: allowed_token_ids, min_tokens, and bad words (as vLLM defines them).

    What is forbidden is a function of the options and the output tokens, so it is the same after a
    preemption and on another worker.
    """

    def __init__(
        self, sampling: SamplingParams, eos_token_ids: frozenset[int], vocab_size: int
    ) -> None:
        """Prepare the bits. All token ids of `sampling` are below `vocab_size`."""
        self._min_tokens = sampling.min_tokens
        is_allowed = np.zeros(-(-vocab_size // _WORD) * _WORD, np.uint8)
        is_allowed[list(sampling.allowed_token_ids) or slice(vocab_size)] = 1
        self._last_tokens: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for *start, last in sampling.bad_words:
            self._last_tokens[tuple(start)].append(last)
        is_allowed[self._last_tokens.pop((), [])] = 0
        self._lengths = sorted({len(start) for start in self._last_tokens})
        self._has_constant = not is_allowed[:vocab_size].all()
        self._later = _pack(is_allowed)
        is_allowed[list(sampling.ending_token_ids(eos_token_ids))] = 0
        self._early = _pack(is_allowed)

    def allowed(self, token_ids: list[int], num_output_tokens: int) -> Bits | None:
        """Return which tokens may come after `token_ids`, the last `num_output_tokens` of them the output.

        None if all may. The array is not to be changed.
        """
        is_early = num_output_tokens < self._min_tokens
        bits = self._early if is_early else self._later
        forbidden = self._ends_of_words(token_ids, num_output_tokens)
        if forbidden:
            bits = bits.copy()
            for token_id in forbidden:
                bits[token_id // _WORD] &= np.uint32(0xFFFFFFFF ^ (1 << token_id % _WORD))
        return bits if forbidden or is_early or self._has_constant else None

    def _ends_of_words(self, token_ids: list[int], num_output_tokens: int) -> list[int]:
        """Return the tokens that would complete a bad word of several tokens."""
        found: list[int] = []
        for length in self._lengths:
            if length > num_output_tokens:
                break
            found += self._last_tokens.get(tuple(token_ids[-length:]), ())
        return found


def _pack(is_allowed: NDArray[np.uint8]) -> Bits:
    return np.packbits(is_allowed, bitorder="little").view(np.uint32)
