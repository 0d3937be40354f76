"""Sampling options of a step as the flat arrays that kernels read; row i is the i-th sequence's."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from common.engine.sampling.state import SamplerState, TokenValues
from common.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Ragged:
    """Entries of all rows: row i has `[starts[i], starts[i + 1])`; no token comes twice in a row."""

    starts: NDArray[np.int64]  # [m + 1]
    ids: NDArray[np.int64]
    values: NDArray[np.float32]

    @staticmethod
    def of(rows: SequenceOf[TokenValues]) -> "Ragged":
        """Join the entries of at least one row."""
        starts = np.array([0, *accumulate(len(row.ids) for row in rows)], np.int64)
        ids, values = zip(*rows, strict=True)
        return Ragged(starts, np.concatenate(ids), np.concatenate(values))


@dataclass(frozen=True, slots=True)
class Adjustments:
    """Changes of logits before the temperature, in this order.

    1. `biases` are added.
    2. For tokens `seen` in prompt and output, positive logits are divided and others multiplied by the
       repetition penalty (Keskar et al. 2019).
    3. The presence penalty, and the frequency penalty times the count, are subtracted. They regard the output
       alone (as OpenAI's API defines them).
    """

    biases: Ragged
    seen: Ragged  # values: times in the output
    repetition: NDArray[np.float32]  # [m]
    presence: NDArray[np.float32]  # [m]
    frequency: NDArray[np.float32]  # [m]

    @staticmethod
    def of(sequences: SequenceOf[Sequence]) -> "Adjustments":
        """Collect the changes that these sequences ask for now."""
        states = [_state(seq) for seq in sequences]
        pairs = list(zip(sequences, states, strict=True))
        asked = [seq.sampling for seq in sequences]
        return Adjustments(
            biases=Ragged.of([state.biases for state in states]),
            seen=Ragged.of([state.seen(seq.token_ids) for seq, state in pairs]),
            repetition=np.array([one.repetition_penalty for one in asked], np.float32),
            presence=np.array([one.presence_penalty for one in asked], np.float32),
            frequency=np.array([one.frequency_penalty for one in asked], np.float32),
        )


@dataclass(frozen=True, slots=True)
class Truncation:
    """Limits of the tokens that may be drawn: the top k, of these the top p, of these those above min_p.

    Top p is nucleus sampling (Holtzman et al. 2020), min p that of Nguyen et al. 2024. Tokens that tie with
    the last one that stays, stay: so the choice does not depend on an order of equals.
    """

    temperature: NDArray[np.float64]  # [m], above 0
    top_k: NDArray[np.int64]  # [m], 0: all
    top_p: NDArray[np.float64]  # [m]
    min_p: NDArray[np.float64]  # [m]

    @staticmethod
    def of(sequences: SequenceOf[Sequence], temperatures: list[float]) -> "Truncation":
        """Collect the limits that these sequences ask for."""
        asked = [seq.sampling for seq in sequences]
        return Truncation(
            temperature=np.array(temperatures, np.float64),
            top_k=np.array([one.top_k for one in asked], np.int64),
            top_p=np.array([one.top_p for one in asked], np.float64),
            min_p=np.array([one.min_p for one in asked], np.float64),
        )


def _state(seq: Sequence) -> SamplerState:
    if seq.sampler_state is None:
        seq.sampler_state = SamplerState(seq.sampling, seq.num_prompt_tokens)
    return seq.sampler_state
