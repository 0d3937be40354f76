from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinNewTokensLengthLogitsProcessor, NoBadWordsLogitsProcessor

from common.engine.sampling.bans import TokenBans
from common.messages import SamplingParams
from tests.examples import examples
from tests.unit.common.engine.sequences import NO_EOS

GREEDY = SamplingParams(0.0, 0, 99)


def left(sampling: SamplingParams, prompt: list[int], outputs: list[int]) -> list[int]:
    """The tokens of 60 that bans leave."""
    bans = TokenBans(sampling, frozenset({5}), 60)
    bits = bans.allowed([*prompt, *outputs], len(outputs))
    if bits is None:
        return list(range(60))
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()


def left_by(scores: torch.Tensor) -> list[int]:
    tokens: list[int] = (scores[0] > -inf).nonzero()[:, 0].tolist()
    return tokens


@pytest.mark.parametrize("num_outputs", [0, 1, 2, 3, 4])
def test_what_ends_the_output_is_forbidden_until_min_tokens(num_outputs: int) -> None:
    prompt, outputs = [1, 2], [30] * num_outputs
    processor = MinNewTokensLengthLogitsProcessor(2, 3, [5, 7])
    expected = left_by(processor(torch.tensor([[*prompt, *outputs]]), torch.zeros(1, 60)))
    sampling = replace(GREEDY, min_tokens=3, stop_token_ids=(7,))
    assert left(sampling, prompt, outputs) == expected


def test_an_ignored_end_of_sequence_is_not_forbidden() -> None:
    assert left(replace(GREEDY, min_tokens=3, ignore_eos=True), [1], []) == list(range(60))


@settings(deadline=None, derandomize=True, max_examples=examples(40))
@given(
    words=st.lists(st.lists(st.integers(6, 9), min_size=1, max_size=4), min_size=1, max_size=5),
    outputs=st.lists(st.integers(6, 9), min_size=1, max_size=8),
)
def test_bad_words_are_those_of_transformers(words: list[list[int]], outputs: list[int]) -> None:
    processor = NoBadWordsLogitsProcessor(words, eos_token_id=[5])
    expected = left_by(processor(torch.tensor([outputs]), torch.zeros(1, 60)))
    sampling = replace(GREEDY, bad_words=tuple(map(tuple, words)))
    assert left(sampling, [], outputs) == expected


def test_a_bad_word_does_not_begin_in_the_prompt() -> None:
    sampling = replace(GREEDY, bad_words=((8, 9),))
    assert 9 in left(sampling, [8], [])
    assert 9 not in left(sampling, [8], [8])


def test_bits_that_are_shared_stay_as_they_are() -> None:
    bans = TokenBans(replace(GREEDY, bad_words=((3,), (8, 9))), NO_EOS, 60)
    first = bans.allowed([8], 0)
    assert first is not None
    kept = first.copy()
    assert bans.allowed([8], 1) is not first
    assert (first == kept).all()
