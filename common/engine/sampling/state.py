"""Sampler's state of one sequence that asks for more than a temperature.

All of it is a function of the request and of the tokens so far, so it is the same after a preemption and on
another worker.
"""

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.messages import SamplingParams


class TokenValues(NamedTuple):
    """Token ids, each once, and a number for each."""

    ids: NDArray[np.int64]
    values: NDArray[np.float32]


NO_VALUES = TokenValues(np.zeros(0, np.int64), np.zeros(0, np.float32))


class SamplerState:
    """Biases made ready once, and counts of tokens that grow with the sequence."""

    def __init__(self, sampling: SamplingParams, num_prompt_tokens: int) -> None:
        self._sampling = sampling
        self._num_prompt_tokens = num_prompt_tokens
        self.biases = _to_values(dict(sampling.logit_bias))  # added to logits
        self._slots: dict[int, int] = {}
        self._seen_ids = array("q")
        self._counts = array("f")
        self._num_counted = 0

    def seen(self, token_ids: list[int]) -> TokenValues:
        """Return the tokens of prompt and output and their counts in the output; nothing without penalties.

        Only tokens added since the last call are counted: `token_ids` only ever grows.
        """
        if not self._sampling.has_penalties:
            return NO_VALUES
        for position in range(self._num_counted, len(token_ids)):
            self._count(token_ids[position], is_output=position >= self._num_prompt_tokens)
        self._num_counted = len(token_ids)
        return TokenValues(np.array(self._seen_ids), np.array(self._counts))

    def _count(self, token_id: int, *, is_output: bool) -> None:
        slot = self._slots.setdefault(token_id, len(self._seen_ids))
        if slot == len(self._seen_ids):
            self._seen_ids.append(token_id)
            self._counts.append(0)
        self._counts[slot] += is_output


def _to_values(biases: dict[int, float]) -> TokenValues:
    return TokenValues(
        np.array(list(biases), np.int64), np.array(list(biases.values()), np.float32)
    )
