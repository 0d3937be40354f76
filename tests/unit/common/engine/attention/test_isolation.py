"""Sequences of a ragged batch never show in another's output: bit for bit, not within a tolerance."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import Backend
from tests.examples import examples
from tests.unit.common.engine.attention.paged import Shape, Turn, attend_paged

SHAPES = [
    Shape(16, 64, 6, 2, "bfloat16"),
    Shape(16, 16, 4, 2),
    Shape(16, 16, 4, 2, "float16"),
    Shape(16, 16, 4, 2, "bfloat16", "int8"),
]
BACKENDS: list[Backend] = ["cpu", "reference"]

turns_of_all_kinds = st.one_of(
    st.builds(Turn, st.integers(1, 70), st.just(1), st.integers(0, 99)),
    st.builds(Turn, st.integers(0, 40), st.integers(2, 40), st.integers(0, 99)),
)
batches = st.lists(turns_of_all_kinds, min_size=2, max_size=5)
everywhere = pytest.mark.parametrize(
    ("backend", "shape"), list(itertools.product(BACKENDS, SHAPES))
)


@everywhere
@settings(deadline=None, derandomize=True, max_examples=examples(8))
@given(batches, st.integers(0, 4))
def test_changing_one_sequence_changes_no_other(
    backend: Backend, shape: Shape, turns: list[Turn], which: int
) -> None:
    which %= len(turns)
    changed = [turn.changed() if i == which else turn for i, turn in enumerate(turns)]
    before, after = (attend_paged(backend, shape, batch) for batch in (turns, changed))
    for index in range(len(turns)):
        assert torch.equal(before[index], after[index]) == (index != which)


@everywhere
@settings(deadline=None, derandomize=True, max_examples=examples(8))
@given(batches)
def test_company_changes_nothing(backend: Backend, shape: Shape, turns: list[Turn]) -> None:
    together = attend_paged(backend, shape, turns)
    for turn, output in zip(turns, together, strict=True):
        (alone,) = attend_paged(backend, shape, [turn])
        assert torch.equal(output, alone)


@everywhere
def test_a_poisoned_sequence_poisons_no_other(backend: Backend, shape: Shape) -> None:
    turns = [Turn(20, 1, 1), Turn(20, 9, 2), Turn(0, 33, 3), Turn(63, 1, 4)]
    healthy = attend_paged(backend, shape, turns)
    turns[1] = replace(turns[1], factor=float("nan"))
    poisoned = attend_paged(backend, shape, turns)
    assert poisoned[1].isnan().all()
    for index in (0, 2, 3):
        assert torch.equal(poisoned[index], healthy[index])


@everywhere
@pytest.mark.parametrize("stale", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("context", [1, 5, 16, 17, 40, 64, 65])
def test_what_freed_blocks_still_hold_never_shows(
    backend: Backend, shape: Shape, stale: float, context: int
) -> None:
    if shape.dtype == "float16" and stale == 1e30:
        stale = 6e4  # float16 ends at 65,504
    turns = [Turn(context - 1, 1, 1), Turn(0, context, 2), Turn(context // 2, 3, 3)]
    clean, dirty = (attend_paged(backend, shape, turns, stale=held) for held in (0.0, stale))
    for expected, output in zip(clean, dirty, strict=True):
        assert torch.equal(expected, output)
