"""Chunks, soft caps, sinks and ALiBi: each backend against the formula, in every combination."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import Backend
from tests.examples import examples
from tests.unit.common.engine.attention.paged import (
    Shape,
    Step,
    Turn,
    attend_dense,
    attend_paged,
)

BACKENDS: list[Backend] = ["cpu", "reference"]
GROUPED = Shape(16, 16, num_heads=4, num_kv_heads=2)
HALF = Shape(16, 16, num_heads=4, num_kv_heads=2, dtype="bfloat16")
WIDE = Shape(16, 64, num_heads=6, num_kv_heads=2, dtype="bfloat16")
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
NUMBERS = (0.3, -1.0, 2.5, 0.0, -3.0, 1.0)
# one token behind others, a chunk behind others, whole prompts; over tiles of 64 positions
MIXED = [Turn(90, 1, 1), Turn(30, 45, 2), Turn(0, 1, 3), Turn(130, 20, 4), Turn(0, 64, 5)]
COMBINATIONS = [
    Step(0.5, window, chunk=chunk, softcap=cap, sinks=sinks, slopes=slopes)
    for window, chunk, cap, sinks, slopes in product(
        (None, 9), (None, 37), (None, 1.5), (None, NUMBERS), (None, (0.5, 0.25, 0.125, 2.0, 0, 1))
    )
]

turns = st.builds(Turn, st.integers(0, 90), st.integers(1, 50), st.integers(0, 99))
few = st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4).map(tuple)
steps = st.builds(
    Step,
    st.sampled_from([0.125, 0.5]),
    st.none() | st.integers(1, 100),
    chunk=st.none() | st.integers(1, 100),
    softcap=st.none() | st.sampled_from([0.5, 30.0]),
    sinks=st.none() | few,
    slopes=st.none() | few.map(lambda found: tuple(map(abs, found))),
)


def check(backend: Backend, shape: Shape, step: Step, batch: list[Turn]) -> None:
    tolerance = TOLERANCE[shape.dtype]
    for turn, output in zip(batch, attend_paged(backend, shape, batch, step), strict=True):
        expected = attend_dense(shape, turn, step)
        torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)


def cut(step: Step, shape: Shape) -> Step:
    """Return the options with as many numbers as the shape has heads."""
    sinks, slopes = (x and x[: shape.num_heads] for x in (step.sinks, step.slopes))
    return replace(step, sinks=sinks, slopes=slopes)


@pytest.mark.parametrize(
    "shape",
    [GROUPED, HALF, pytest.param(WIDE, marks=pytest.mark.slow)],
    ids=["float32", "bfloat16", "bfloat16, 64 channels"],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_combination_gives_what_the_formula_gives(backend: Backend, shape: Shape) -> None:
    for step in COMBINATIONS:
        check(backend, shape, cut(step, shape), MIXED)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, derandomize=True, max_examples=examples(15))
@given(st.lists(turns, min_size=1, max_size=4), steps)
def test_a_ragged_batch_gives_what_the_formula_gives(
    backend: Backend, batch: list[Turn], step: Step
) -> None:
    check(backend, GROUPED, step, batch)


@pytest.mark.parametrize("shape", [GROUPED, HALF], ids=["float32", "bfloat16"])
def test_a_row_has_the_same_bits_in_any_step(shape: Shape) -> None:
    """Alone in a decode step, last of a chunk, beside others: one order of sums."""
    step = cut(COMBINATIONS[-1], shape)
    step = replace(step, window=70, chunk=100)
    whole = attend_paged("cpu", shape, [Turn(0, 150, 1)], step)[0]
    for computed, new in ((149, 1), (120, 30), (64, 86)):
        beside = [Turn(40, 1, 8), Turn(computed, new, 1), Turn(3, 20, 9)]
        part = Turn(computed, new, 1)
        query = Turn(0, 150, 1).query(shape)[computed:]
        assert torch.equal(attended(shape, beside, step, part, query), whole[computed:])


def attended(
    shape: Shape, batch: list[Turn], step: Step, part: Turn, query: torch.Tensor
) -> torch.Tensor:
    """Return the output of one turn of a batch, which asks with `query`."""
    mine = [_Asking(query, t.computed, t.new, t.seed) if t == part else t for t in batch]
    return attend_paged("cpu", shape, mine, step)[batch.index(part)]


class _Asking(Turn):
    """Turn with queries of its own."""

    def __init__(self, query: torch.Tensor, computed: int, new: int, seed: int) -> None:
        super().__init__(computed, new, seed)
        object.__setattr__(self, "_query", query)

    def query(self, shape: Shape) -> torch.Tensor:
        found: torch.Tensor = self.__dict__["_query"]
        return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sink_without_end_takes_all_weight(backend: Backend) -> None:
    step = Step(sinks=(1e4, 0.0, -float("inf"), 1e4))
    for output in attend_paged(backend, GROUPED, MIXED, step):
        assert not output[:, [0, 3]].any()
        assert output[:, 1:3].isfinite().all()


def test_numbers_that_are_not_finite_stay_so_under_a_cap() -> None:
    batch = [replace(MIXED[0], factor=float("nan"))]
    assert attend_paged("cpu", GROUPED, batch, Step(softcap=2.0))[0].isnan().all()
