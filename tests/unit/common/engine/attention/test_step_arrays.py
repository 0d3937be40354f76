"""Arrays of decode steps say what those of any step do, and lie where those of the step before lay."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.engine.attention.step_arrays import (
    MOST_DECODED,
    DecodeArrays,
    StepArrays,
    is_decode,
    step_arrays,
)
from common.engine.ragged import RaggedInputs

SIZE, NUM_BLOCKS, THREADS = 16, 200, 2


def decode_step(contexts: list[int], seed: int = 0) -> RaggedInputs:
    """Return a step of one token a sequence, in blocks of random numbers; every second one samples."""
    free = random.Random(seed).sample(range(NUM_BLOCKS), NUM_BLOCKS)
    tables = [[free.pop() for _ in range(-(-context // SIZE))] for context in contexts]
    width, last = max(map(len, tables)), [context - 1 for context in contexts]
    slots = [t[at // SIZE] * SIZE + at % SIZE for t, at in zip(tables, last, strict=True)]
    return RaggedInputs(
        input_ids=np.arange(len(contexts)),
        positions=np.array(last),
        slot_mapping=np.array(slots),
        query_start=np.arange(len(contexts) + 1, dtype=np.int32),
        context_len=np.array(contexts, np.int32),
        block_tables=np.array([t + [0] * (width - len(t)) for t in tables], np.int32),
        sample_rows=np.arange(0, len(contexts), 2),
    )


def addresses(arrays: StepArrays) -> list[int]:
    every: tuple[NDArray[Any], ...] = (*arrays.slots, *arrays.of_items(False))
    return [x.__array_interface__["data"][0] for x in every]


@pytest.mark.parametrize("contexts", [[1], [300], [40, 16, 17], [5, 100, 33, 64, 31]])
def test_arrays_of_a_decode_step_say_the_same(contexts: list[int]) -> None:
    inputs = decode_step(contexts)
    kept, plain = DecodeArrays(NUM_BLOCKS).fill(inputs, THREADS), step_arrays(inputs, SIZE, THREADS)
    width = inputs.block_tables.shape[1]
    assert np.array_equal(kept.block_tables[:, :width], plain.block_tables)
    for ours, theirs in (
        (kept.slots.slots, plain.slots.slots),
        (kept.query_start, plain.query_start),
        (kept.context_len, plain.context_len),
    ):
        assert np.array_equal(ours, theirs)
    for ours, theirs in ((kept.items, plain.items), (kept.sampled_items, plain.sampled_items)):
        assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_threads_share_the_costs_of_many_sequences() -> None:
    contexts = [100, 1, 90, 2, 80, 3]
    items = DecodeArrays(NUM_BLOCKS).fill(decode_step(contexts), THREADS).items
    halves = [sum(contexts[seq] for seq, _, _ in half) for half in (items[:3], items[3:])]
    assert halves == [100 + 80 + 2, 90 + 3 + 1]


def test_arrays_lie_where_they_lay_whatever_a_step_holds() -> None:
    kept = DecodeArrays(NUM_BLOCKS)
    first = kept.fill(decode_step([5, 100, 33]), THREADS)
    places = addresses(first)
    second = kept.fill(decode_step([700, 1, 2], seed=1), THREADS)
    assert addresses(second) == places
    assert second.context_len.tolist() == [700, 1, 2]


def test_only_steps_of_one_token_a_sequence_are_decode_steps() -> None:
    assert is_decode(decode_step([1] * MOST_DECODED))
    assert not is_decode(decode_step([1] * (MOST_DECODED + 1)))
    chunk = replace(
        decode_step([9]), input_ids=np.arange(2), query_start=np.array([0, 2], np.int32)
    )
    assert not is_decode(chunk)
